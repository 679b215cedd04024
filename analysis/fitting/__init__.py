"""Fits: the global minimum of a law on a table, its certificate and its intervals."""
