"""The recursive loop: generate, run, verify, admit, learn, prove that it helped, keep or go back."""
