"""Laws: what a law is, the published forms, and how to find one by name."""

from analysis.laws.forms import *  # noqa: F403  (every published form: laws.chinchilla, ...)
from analysis.laws.forms import LAWS
from analysis.laws.law import Law, LawError, Range, law
from analysis.laws.lookup import resolve, table

__all__ = ["LAWS", "Law", "LawError", "Range", "law", "resolve", "table"]
