"""Formulas of laws as MathML, made from the text of the formula."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "eps": "ε", "epsilon": "ε",
    "zeta": "ζ", "eta": "η", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "rho": "ρ",
    "sigma": "σ", "tau": "τ", "omega": "ω",
}  # fmt: skip
_FUNCTIONS = ("exp", "ln", "log", "log10", "min", "max")
_TOKEN = re.compile(r"\s*([A-Za-z]\w*'*|\d+(?:\.\d+)?(?:e[+-]?\d+)?|\S)")
_OPENING, _CLOSING = "([", ")]"
_DEEPEST = 40
"""Formulas with deeper parentheses are shown as they are written."""


def mathml(formula: str) -> str:
    """Return a formula such as "L(N) = E + A / N^alpha" as a <math> element.

    Fractions, powers, indices and Greek letters are set; whatever else the text holds is escaped
    and kept. Text that is no formula is shown as it is.
    """
    try:
        body = _Formula(formula).body()
    except _NotAFormula:
        return f'<code class="formula">{html.escape(formula)}</code>'
    return f'<math alttext="{html.escape(formula)}">{body}</math>'


def symbol(name: str) -> str:
    """Return a parameter's name, such as alpha_N or L_max or alpha_N^ND, as a <math> element."""
    base, _, above = name.partition("^")
    body = _name(base)
    if above:
        body = f"<msup>{body}<mtext>{html.escape(above)}</mtext></msup>"
    return f'<math alttext="{html.escape(name)}">{body}</math>'


class _NotAFormula(ValueError):
    """The text does not parse as a formula."""


class _Formula:
    """A reader of one formula, token by token."""

    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.at = 0
        self.depth = 0
        self.raised = 0

    def body(self) -> str:
        parts = [self.row()]
        if self.peek():
            raise _NotAFormula
        return f"<mrow>{''.join(parts)}</mrow>"

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def row(self) -> str:
        """Return everything up to a closing parenthesis: sums, equations and words between."""
        out: list[str] = []
        while (token := self.peek()) and token not in _CLOSING:
            if token == "/" and out and not self.raised:  # a power keeps its fractions on one line
                self.take()
                below = self.factor(bare=True)
                above = out.pop()
                out.append(f"<mfrac>{_bare(above)}{below}</mfrac>")
            elif token in "+-−=<>,;:|" or token in ("/", "*"):
                self.take()
                out.append(_operator(token))
            else:
                out.append(self.factor())
        return "".join(_spaced(out))

    def factor(self, *, bare: bool = False) -> str:
        """Return one factor with its power; `bare` leaves out parentheses around the whole."""
        base = self.atom()
        if self.peek() != "^":
            return _bare(base) if bare else base
        self.take()
        return f"<msup>{base}{self.exponent()}</msup>"

    def exponent(self) -> str:
        sign = ""
        while self.peek() in ("-", "+", "−") and self.peek():
            sign += _operator(self.take())
        self.raised += 1
        power = f"<mrow>{sign}{_bare(self.atom())}</mrow>"
        self.raised -= 1
        return power

    def atom(self) -> str:
        token = self.take()
        if not token or token in _CLOSING or token == "^":
            raise _NotAFormula
        if token not in _OPENING:
            return _name(token)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _NotAFormula
        inner = self.row()
        if self.take() not in tuple(_CLOSING):
            raise _NotAFormula
        self.depth -= 1
        return f"<mrow><mo>(</mo>{inner}<mo>)</mo></mrow>"


def _tokens(text: str) -> Iterator[str]:
    for found in _TOKEN.finditer(text):
        yield found[1]


def _bare(markup: str) -> str:
    """Return a group without the parentheses around it."""
    start, end = "<mrow><mo>(</mo>", "<mo>)</mo></mrow>"
    if markup.startswith(start) and markup.endswith(end):
        return f"<mrow>{markup[len(start) : -len(end)]}</mrow>"
    return markup


def _operator(token: str) -> str:
    return f"<mo>{html.escape('−' if token == '-' else token)}</mo>"


def _name(token: str) -> str:
    """Return a number, a symbol with its index, or a word."""
    if token[0].isdigit():
        return f"<mn>{html.escape(token)}</mn>"
    if not (token[0].isalpha() or token[0] == "_"):
        return f"<mtext>{html.escape(token)}</mtext>"
    word = token.rstrip("'")
    prime = "′" * (len(token) - len(word))
    head, _, below = word.partition("_")
    if head in _FUNCTIONS and not below:
        return f'<mi mathvariant="normal">{head}</mi>'
    head = f"<mi>{_GREEK.get(head, html.escape(head))}{prime}</mi>"
    if not below:
        return head
    below = _GREEK.get(below, html.escape(below))
    kind = "mn" if below.isdigit() else "mi"
    return f"<msub>{head}<{kind}>{below}</{kind}></msub>"


def _spaced(parts: list[str]) -> Iterator[str]:
    """Yield the parts with a thin space between factors that stand side by side."""
    before = ""
    for part in parts:
        if before and not before.startswith("<mo>") and not part.startswith("<mo>"):
            called = part.startswith("<mrow><mo>(</mo>") and before.startswith(("<mi", "<msub"))
            yield "" if called else '<mspace width="0.2em"/>'
        yield part
        before = part
