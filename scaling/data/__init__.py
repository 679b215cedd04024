"""The text that a run is trained and measured on: its sources, splits, tokens and windows."""
