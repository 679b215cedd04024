"""The training loop and its parts: members of a pack, steps, schedules, checkpoints, evaluation."""
