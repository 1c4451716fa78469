"""The hot operations, one folder each: `reference.py` is slow and obvious, `eager.py` is plain torch and always works."""
