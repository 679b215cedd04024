"""Tables of runs: reading, counting N and C, and selecting rows."""
