"""The compute-optimal frontier by every method in use."""
