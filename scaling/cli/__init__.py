"""The command line. It imports `sweeps` and `analysis`, which the rest of `scaling` does not."""

from scaling.cli.app import COMMANDS, main

__all__ = ["COMMANDS", "main"]
