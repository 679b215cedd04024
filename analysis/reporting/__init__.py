"""Summaries of a results folder: as text, and as one HTML page."""
