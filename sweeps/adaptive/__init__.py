"""Adaptive sweeps: which runs come next, and which stop early, given the results so far."""
