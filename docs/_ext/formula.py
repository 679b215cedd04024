"""Formulas as docstrings write them, such as E + A / N^alpha, in TeX."""

from __future__ import annotations

import re

_GREEK = ("alpha", "beta", "gamma", "delta", "eps", "eta", "kappa", "lambda", "sigma")
_FUNCTIONS = {"exp": r"\exp", "ln": r"\ln", "log10": r"\log_{10}", "min": r"\min", "max": r"\max"}
_TOKEN = re.compile(r"\s*(?:([A-Za-z]\w*'?|\d+(?:\.\d+)?(?:e-?\d+)?)|([-+/^=(),]))")


def tex(formula: str) -> tuple[str, str]:
    """Split `formula` at a comma into the longest equation it begins with, in TeX, and the rest.

    Raises ValueError if it does not begin with an equation.
    """
    for end in [len(formula), *reversed([m.start() for m in re.finditer(",", formula)])]:
        try:
            return _Formula(formula[:end]).tex(), formula[end:].lstrip(", ")
        except ValueError:
            continue
    raise ValueError(f"{formula!r} does not begin with an equation")


def symbol(name: str) -> str:
    """Return a name such as alpha_N or lr in TeX."""
    name, prime = name.rstrip("'"), "'" if name.endswith("'") else ""
    head, _, index = name.partition("_")
    head = rf"\{'epsilon' if head == 'eps' else head}" if head in _GREEK else _upright(head)
    return (f"{head}_{{{_upright(index)}}}" if index else head) + prime


def _upright(word: str) -> str:
    if word == "star":
        return "*"
    return word if len(word) == 1 or word.isdigit() else rf"\mathrm{{{word}}}"


class _Formula:
    """A parser by recursive descent; juxtaposition multiplies and binds closer than a slash.

    Fractions within brackets stay in line (`flat`), because not every browser has a font with tall
    brackets.
    """

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, bool]] = []
        """Each token, and whether no space precedes it."""
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError(text[at:])
            self.tokens.append((match[1] or match[2], not text[at].isspace()))
            at = match.end()
        self.i = 0

    def tex(self) -> str:
        made = self.sum()
        while self.take("="):
            made += " = " + self.sum()
        if self.i < len(self.tokens) or "=" not in made:
            raise ValueError("not an equation")
        return made

    def peek(self) -> str:
        return self.tokens[self.i][0] if self.i < len(self.tokens) else ""

    def take(self, token: str) -> bool:
        found = self.peek() == token
        self.i += found
        return found

    def sum(self, flat: bool = False) -> str:
        made = "-" if self.take("-") else ""
        made += self.product(flat)
        while self.peek() in ("+", "-"):
            sign = self.peek()
            self.i += 1
            made += f" {sign} {self.product(flat)}"
        return made

    def product(self, flat: bool) -> str:
        made = self.factors()
        while self.take("/"):
            below = self.factors()
            made = f"{made} / {below}" if flat else rf"\frac{{{made}}}{{{below}}}"
        return made

    def factors(self) -> str:
        made = [self.power()]
        while (token := self.peek()) and (token == "(" or token[0].isalnum()):
            made.append(self.power())
        return r" \, ".join(made)

    def power(self) -> str:
        made = self.atom()
        if self.take("^"):
            made = f"{{{made}}}^{{{self.exponent()}}}"
        return made

    def exponent(self) -> str:
        minus = "-" if self.take("-") else ""
        if self.take("("):
            made = self.sum(flat=True)
            self.close()
        else:
            made = self.atom()
        return minus + made

    def atom(self) -> str:
        token = self.peek()
        self.i += 1
        if token == "(":
            made = self.sum(flat=True)
            self.close()
            return f"({made})"
        if not token or not token[0].isalnum():
            raise ValueError(token)
        if token[0].isdigit():
            return token
        name = _FUNCTIONS.get(token) or symbol(token)
        if self.peek() == "(" and self.tokens[self.i][1]:  # L(N, D): no space before the bracket
            self.i += 1
            given = [self.sum(flat=True)]
            while self.take(","):
                given.append(self.sum(flat=True))
            self.close()
            return f"{name}({', '.join(given)})"
        return f"{name} {self.power()}" if token in _FUNCTIONS else name

    def close(self) -> None:
        if not self.take(")"):
            raise ValueError("no closing bracket")
