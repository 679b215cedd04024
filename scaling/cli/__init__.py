"""The command line: the one part of `scaling` that imports `sweeps` and `analysis`."""

from scaling.cli.app import COMMANDS, main

__all__ = ["COMMANDS", "main"]
