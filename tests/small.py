"""A sweep of a few seconds on the text of the fixture `here`, and in-process command-line calls."""

from scaling.cli import main

BASE = """
name = "small"
[base]
data = { corpus = "corpus.txt", tokenizer = "bytes" }
model = { n_layer = 1, d_model = 8, n_head = 1, n_ctx = 32 }
batch_tokens = 256
tokens = 2560
eval = { test_tokens = 2048, points = 4 }
[axes]
"""
SMALL = BASE + "seed = [0, 1]\n"


def call(*words: object) -> int:
    """Run a command in this process and return its exit code."""
    try:
        main([*map(str, words)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
