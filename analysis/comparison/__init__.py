"""Comparison of two training recipes: effective speed-up, crossover, regret of a choice."""
