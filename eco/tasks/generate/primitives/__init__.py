"""The single steps that programs are composed of, a file for each kind of value that a step starts from."""
