"""The section of the report that gives the answer and lets a reader change the question."""

from __future__ import annotations

from analysis.reporting.summary import Summary

STYLE = ""
"""CSS of the section; it uses the page's variables for colours."""


def section(summary: Summary) -> list[str]:
    """Return the section as lines of HTML; empty if the page leaves the answer to the summary."""
    return []


def script() -> str:
    """Return the JavaScript of the section; empty if it needs none."""
    return ""
