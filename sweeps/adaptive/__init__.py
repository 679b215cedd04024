"""Adaptive sweeps: which runs come next, and which stop early, as functions of the results so far."""
