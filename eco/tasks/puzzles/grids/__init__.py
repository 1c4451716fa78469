"""What the puzzle families compute with."""
