"""Runs of other people's trackers and trainers, as tables."""
