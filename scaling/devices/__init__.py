"""Devices: one, or several with a process each; their hardware, and compilation for them."""
