"""What the loop has verified: immutable versions, each row with its provenance."""
