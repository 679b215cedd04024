"""What to train next: plans, recipes, and designs of further runs."""
