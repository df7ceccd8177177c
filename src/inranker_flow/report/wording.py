"""Numbers as the page writes them: four digits for measures, as the terminal, MLflow and the model card have them."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Between a number and its unit.
_BLANK = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def number(value: float) -> str:
    """Return a measure or a similarity."""
    return f"{value:.4f}"


def signed(value: float) -> str:
    """Return a difference of measures with its sign."""
    text = number(abs(value))
    return text if float(text) == 0 else f"{'+' if value > 0 else _MINUS}{text}"


def probability(value: float) -> str:
    """Return a p-value."""
    if value < 1e-3:
        return "< 0.001"
    return "1" if value >= 0.9995 else f"{value:.3f}"


def share(value: float, digits: int = 1) -> str:
    """Return a share of 1 in percent."""
    return f"{100 * value:.{digits}f}{_BLANK}%"


def effect(value: float | None) -> str:
    """Return an effect size."""
    return "–" if value is None else f"{_MINUS if value < 0 else ''}{abs(value):.2f}"


def interval(bounds: Sequence[float]) -> str:
    """Return an interval of a difference."""
    return f"{signed(bounds[0])} to {signed(bounds[1])}"


def bounds(found: Sequence[float]) -> str:
    """Return an interval of a measure."""
    return f"{number(found[0])}–{number(found[1])}"


def amount(value: float | None, quantity: str) -> str:
    """Hours and prices have digits after the point, counts none; bytes (stored) are megabytes."""
    if value is None:
        return "not known"
    if quantity == "stored":
        return f"{value / 1e6:,.{1 if value >= 1e7 else 2}f}{_BLANK}MB"
    if quantity not in ("hours", "price"):
        return f"{value:,.0f}"
    return f"{value:,.{2 if value >= 0.1 or not value else 4}f}"


def sentence(text: str) -> str:
    """Begin as a sentence does, but for names such as nDCG@10, and write minus signs as the page's numbers have them."""
    text = re.sub(r"(?<![\w.-])-(?=\d)", _MINUS, text)
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def milliseconds(value: float | None) -> str:
    """Return a latency; long ones in seconds."""
    if value is None:
        return "–"
    if value >= 10_000:
        return f"{value / 1000:,.1f}{_BLANK}s"
    return f"{value:,.{0 if value >= 100 else 1 if value >= 1 else 2}f}{_BLANK}ms"


def seconds(value: float) -> str:
    """Return a duration; long ones in minutes."""
    return f"{value:,.1f}{_BLANK}s" if value < 120 else f"{value / 60:,.1f}{_BLANK}min"


def megabytes(value: float | None) -> str:
    """Return a size."""
    return "–" if value is None else f"{value:,.1f}{_BLANK}MB"
