"""Training: the entry points, the loop, and its steps, schedules, checkpoints and evaluations."""
