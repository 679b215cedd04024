"""Execution of a sweep's jobs on Ray."""
