"""The compute-optimal frontier: how the best size, data and loss change with compute."""
