"""Rules for hyperparameters other than learning rates: power laws in N, D and B."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from scaling.errors import ConfigError

_TOKEN = re.compile(r"\s*(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[NDB]|[-+*/^()])")
_EXAMPLES = {
    "optim.beta2": "'0.98^(B/131072)' or '1 - 40 B/D'",
    "optim.weight_decay": "'0.1 (B/4096)^0.5'",
    "optim.decay_tokens": "'0.2 D'",
}


class _NotARuleError(Exception):
    """The text is no product of powers."""


@dataclass(frozen=True)
class PowerLaw:
    """c N^p D^q B^r."""

    coefficient: float
    exponents: tuple[tuple[str, float], ...] = ()
    """(symbol, exponent), sorted by symbol, without zeros."""

    def at(self, **values: float) -> float:
        """Return the value at {symbol: value}; inf where it overflows."""
        try:
            return self.coefficient * math.prod(values[name] ** p for name, p in self.exponents)
        except OverflowError:
            return math.inf

    def __mul__(self, other: PowerLaw) -> PowerLaw:
        total = dict(self.exponents)
        for name, p in other.exponents:
            total[name] = total.get(name, 0.0) + p
        used = tuple(sorted((name, p) for name, p in total.items() if p))
        return PowerLaw(self.coefficient * other.coefficient, used)

    def __pow__(self, power: float) -> PowerLaw:
        used = tuple((name, p * power) for name, p in self.exponents if power)
        return PowerLaw(self.coefficient**power, used)

    def __str__(self) -> str:
        return " ".join([repr(self.coefficient), *(f"{name}^{p!r}" for name, p in self.exponents)])


@dataclass(frozen=True)
class Rule:
    """A power law, base^(power law), or 1 - power law."""

    power_law: PowerLaw
    base: float | None = None
    from_one: bool = False

    def at(self, **values: float) -> float:
        """Return the value at {symbol: value}; inf where it overflows."""
        value = self.power_law.at(**values)
        if self.base is not None:
            return self.base**value
        return 1.0 - value if self.from_one else value

    @property
    def spelling(self) -> float | str:
        """The canonical spelling; a constant rule is a number."""
        if not self.power_law.exponents:
            return self.at()
        if self.base is not None:
            return f"{self.base!r}^({self.power_law})"
        return f"1 - {self.power_law}" if self.from_one else str(self.power_law)


def parsed(rule: float | str, key: str) -> Rule:
    """Parse a number, or a power law such as '0.1 (B/4096)^0.5', of the config key `key`.

    beta2 may also be a number to such a power, '0.98^(B/131072)', or one minus it, '1 - 40 B/D'.
    Raises ConfigError for anything else.
    """
    if not isinstance(rule, str):
        return Rule(PowerLaw(float(rule)))
    try:
        found = _Parser(rule).rule()
        allowed = key == "optim.beta2" or (found.base is None and not found.from_one)
        numbers = (found.power_law.coefficient, 1.0 if found.base is None else found.base)
        if allowed and all(0 < number < math.inf for number in numbers):
            return found
    except (_NotARuleError, ArithmeticError, ValueError, TypeError, RecursionError):
        pass
    raise ConfigError(
        f"{key}={rule!r} is neither a number nor a power law such as {_EXAMPLES[key]} in N "
        "(non-embedding parameters), D and B (tokens)."
    ) from None


def spelled(rule: float | str | None, key: str) -> float | str | None:
    """Return a rule in its canonical spelling; a constant rule becomes a number."""
    return parsed(rule, key).spelling if isinstance(rule, str) else rule


class _Parser:
    """Recursive descent over the tokens of a rule: products, quotients and powers of numbers and
    symbols."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        place = 0
        while place < len(text.rstrip()):
            match = _TOKEN.match(text, place)
            if match is None:
                raise _NotARuleError
            self.tokens.append(match[0].strip())
            place = match.end()
        self.at = 0

    def rule(self) -> Rule:
        if self.tokens[:2] == ["1", "-"]:
            self.at = 2
            return Rule(self.whole(), from_one=True)
        if self.tokens[1:3] == ["^", "("] and self.tokens[-1:] == [")"] and self._is_number(0):
            start = self.at = 3
            power_law = self.product()
            if self.at == len(self.tokens) - 1 and self.at > start and power_law.exponents:
                return Rule(power_law, base=float(self.tokens[0]))
            self.at = 0
        if len(self.tokens) == 3 and self.tokens[1] == "^" and self.tokens[2] in "NDB":
            return Rule(PowerLaw(1.0, ((self.tokens[2], 1.0),)), base=float(self.tokens[0]))
        return Rule(self.whole())

    def whole(self) -> PowerLaw:
        found = self.product()
        if self.at < len(self.tokens):
            raise _NotARuleError
        return found

    def product(self) -> PowerLaw:
        found = self.power()
        while (token := self._peek()) is not None and token != ")":
            if token in ("*", "/"):
                self.at += 1
            factor = self.power()
            found = found * (factor**-1.0 if token == "/" else factor)
        return found

    def power(self) -> PowerLaw:
        found = self.atom()
        if self._peek() != "^":
            return found
        self.at += 1
        enclosed = self._take("(")
        sign = -1.0 if self._take("-") else 1.0
        self._take("+")
        if not self._is_number(self.at):
            raise _NotARuleError
        exponent = sign * float(self.tokens[self.at])
        self.at += 1
        if enclosed and not self._take(")"):
            raise _NotARuleError
        return found**exponent

    def atom(self) -> PowerLaw:
        token = self._peek()
        if self._take("("):
            found = self.product()
            if not self._take(")"):
                raise _NotARuleError
            return found
        if token is None or token in "-+*/^)":
            raise _NotARuleError
        self.at += 1
        return PowerLaw(1.0, ((token, 1.0),)) if token in "NDB" else PowerLaw(float(token))

    def _peek(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _take(self, token: str) -> bool:
        taken = self._peek() == token
        self.at += taken
        return taken

    def _is_number(self, place: int) -> bool:
        return place < len(self.tokens) and self.tokens[place][0] in ".0123456789"
