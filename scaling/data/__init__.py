"""The text that a run is trained and evaluated on: sources, splits, tokens and windows."""
