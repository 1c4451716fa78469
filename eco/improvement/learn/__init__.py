"""What changes the weights: learning from verified rows, and by reinforcement."""
