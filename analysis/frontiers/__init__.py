"""The compute-optimal frontier: how best size, data and loss grow with compute."""
