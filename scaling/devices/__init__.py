"""The devices that train a run: one, or several in a process each; their hardware; compilation."""
