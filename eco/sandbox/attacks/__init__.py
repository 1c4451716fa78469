"""Programs that try to leave the sandbox or to be taken for right, and what each reaches (`eco sandbox test`)."""
