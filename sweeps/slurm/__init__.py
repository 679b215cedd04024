"""Sweeps as jobs of Slurm: an allocation with Ray, or an array of processes that share a folder."""
