"""Puzzles as memory-mapped arrays, and the endless order in which training sees them."""
