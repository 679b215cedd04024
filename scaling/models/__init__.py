"""The built-in model families and their parts."""
