"""Tests of whether a law predicts runs that it has not seen."""
