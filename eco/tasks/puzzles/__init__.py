"""Puzzles on grids of tokens: one file per family, found by its name (`data.puzzle` in a recipe)."""
