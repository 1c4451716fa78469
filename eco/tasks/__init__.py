"""Verifiable problems: what is asked, and a check of the answer that the solver cannot influence."""
