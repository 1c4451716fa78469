"""Runs untrusted code so that it can neither harm nor fool the process that asked."""
