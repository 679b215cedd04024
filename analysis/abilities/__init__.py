"""Accuracy on tasks: laws that predict it from loss, size and data."""
