"""What the page's figures are made of: marks of an axis, texts, and the frame around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from inranker_flow.report.chart import style

LEFT, RIGHT, TOP, BELOW = 50, 16, 18, 44


def round_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most ``most`` + 1 multiples of 1, 2 or 5 times a power of ten, from at or below ``low`` to at or above
    ``high``."""
    spread = high - low if high - low > 1e-9 else max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(spread / most))
    for step in (digit * scale for scale in (power, 10 * power) for digit in (1, 2, 5)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    return [round(step * each, 12) for each in range(first, max(last, first + 1) + 1)]


def horizontal(up: float, right: float, label: str) -> str:
    """Return a line of the grid with its label."""
    return f'<path class="grid" d="M{LEFT} {up:.1f}H{right:g}"/>' + text(LEFT - 7, up + 4, label, "end", 11, "faint")


def text(x: float, y: float, said: str, anchor: str, size: float, kind: str = "", weight: int = 400) -> str:
    """Return a text that is anchored at a point ("start", "middle" or "end")."""
    return (
        f'<text{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
        f'font-size="{size:g}"{f" font-weight={chr(34)}{weight}{chr(34)}" if weight != 400 else ""}>{escape(said)}</text>'
    )


def frame(body: str, width: int, height: float, systems: Sequence[str], name: str) -> str:
    """Return the whole figure around its ``body``; ``name`` says what it shows to those who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="irf" viewBox="0 0 {width} {height:g}" width="{width}" '
        f'height="{height:g}" role="img" aria-label="{escape(name)}"><style>{style(systems)}</style>'
        f'<rect class="ground" width="{width}" height="{height:g}" rx="10"/>{body}</svg>'
    )
