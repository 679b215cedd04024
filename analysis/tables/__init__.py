"""Tables of runs: reading them, counting N and C, selecting rows."""
