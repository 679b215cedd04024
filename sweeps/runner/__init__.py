"""Runs that a command of the user trains: the table [runner] of a spec, processes, results."""
