"""Figures of quality against cost and of the margins of all queries, each one inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from inranker_flow.report.chart import title
from inranker_flow.report.drawing import BELOW, LEFT, RIGHT, TOP, frame, horizontal, round_ticks, text
from inranker_flow.report.wording import number

#: Width of a letter of a label (12.5, bold) in the mean, in the widest of the page's fonts (DejaVu Sans).
_LETTER = 7.7


def cost_svg(summary: Mapping[str, Any], width: int = 860) -> str:
    """Return the mean of the headline measure against the median latency of reranking 100 passages, in milliseconds
    (logarithmic).

    The first stage is the line of what costs no reranking at all. "" where nothing was measured or no latency was.
    """
    systems, headline, models = summary["systems"], summary["headline"], summary["models"]
    timed = [s for s in systems if models.get(s, {}).get("latency_median_ms")]
    if not summary["datasets"] or not timed:
        return ""
    shown = {s: models[s]["latency_median_ms"] for s in timed}
    tails = {s: models[s]["latency_p95_ms"] for s in timed}
    values = {s: summary["average"][s][headline] for s in systems}
    height = 300
    above = TOP + 16  # room for the label of what is perfect
    low, high = _decades(min(shown.values()), max(tails.values()))
    found = [bound for s in systems for bound in _interval(summary, s)]
    ticks = round_ticks(min(found), max(found))
    least, most = ticks[0], ticks[-1]
    right, bottom = width - RIGHT, height - BELOW

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * (right - LEFT)

    def y(value: float) -> float:
        return bottom - (value - least) / (most - least) * (bottom - above)

    parts = [horizontal(y(tick), right, f"{tick:g}") for tick in ticks]
    for power, digit in ((p, d) for p in range(math.floor(low), math.ceil(high) + 1) for d in (1, 2, 5)):
        value = digit * 10.0**power
        if low - 1e-9 <= math.log10(value) <= high + 1e-9 and (
            digit == 1 or high - low < (2.2 if width > 600 else 1.2)
        ):
            parts.append(f'<path class="grid" d="M{x(value):.1f} {above}V{bottom}"/>')
            parts.append(text(x(value), bottom + 16, _milliseconds(value), "middle", 11, "faint"))
    axis = "median latency of reranking 100 passages; a line to the 95th percentile"
    axis = axis if width > 600 else "median for 100 passages, line to p95"
    parts.append(text((LEFT + right) / 2, height - 8, axis, "middle", 11.5))
    first = systems[0]
    base = y(values[first])
    parts.append(
        f'<path class="l-0" d="M{LEFT} {base:.1f}H{right}" stroke-width="1.75" '
        f'stroke-dasharray="6 4"><title>{escape(title(first))} alone: {headline} {values[first]:.4f}, no reranking</title></path>'
    )
    labels: list[list[Label]] = []
    taken: list[Box] = [(LEFT, right, base - 1, base + 1)]
    for name, system in _points(summary, timed):
        index, across, up = systems.index(system), x(shown[system]), y(values[system])
        bottom_, top = _interval(summary, system)
        tooltip = (
            f"{name}: {headline} {values[system]:.4f}; {shown[system]:.1f} ms in the median, {tails[system]:.1f} ms at the "
            "95th percentile"
        )
        parts.append(
            f'<path class="l-{index}" d="M{across:.1f} {up:.1f}H{x(tails[system]):.1f}m0 -4v8" stroke-width="1.75"/>'
            f'<path class="l-{index}" d="M{across:.1f} {y(bottom_):.1f}V{y(top):.1f}" stroke-width="1.75"/>'
            f'<circle class="s-{index}" cx="{across:.1f}" cy="{up:.1f}" r="6.5"><title>{escape(tooltip)}</title></circle>'
        )
        taken.append((across - 7, max(across + 7, x(tails[system]) + 2), up - 6, up + 6))
        said, tail = f"{name} {number(values[system])}", x(tails[system])
        # Behind the line, before the point, above or below it.
        labels.append(
            [
                (tail + 9, up + 4.5, said, "start"),
                (across - 12, up + 4.5, said, "end"),
                (across - 4, up - 11, said, "start"),
                (across - 4, up + 20, said, "start"),
            ]
        )
    floor = f"{title(first)} {number(values[first])}, no reranking"
    labels.append([(LEFT + 6, base - 6, floor, "start"), (right - 2, base - 6, floor, "end")])
    # Not up to the axis, whose own labels stand to its left.
    parts += [_label(*each) for each in _apart(labels, taken, (LEFT + 2, right, 2, bottom))]
    described = ". ".join(f"{title(s)}: {headline} {values[s]:.3f} at {shown[s]:.1f} ms" for s in timed)
    name = f"{headline} against latency. {title(first)}: {values[first]:.3f} without reranking. {described}."
    return frame("".join(parts), width, height, systems, name)


def _points(summary: Mapping[str, Any], timed: Sequence[str]) -> list[tuple[str, str]]:
    """Return (label, system): equal models are one point."""
    points: dict[str, list[str]] = {}
    for system in timed:
        points.setdefault(summary["models"][system]["same_as"] or system, []).append(title(system))
    return [(" = ".join(names), system) for system, names in points.items()]


def _interval(summary: Mapping[str, Any], system: str) -> tuple[float, float]:
    found = summary["intervals"][system]
    low, high = found[""] or next(iter(found.values()))
    return float(low), float(high)


def _milliseconds(value: float) -> str:
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"


def _decades(least: float, most: float) -> tuple[float, float]:
    """Return logarithms that hold both, with room at the ends and never less than one decade."""
    low, high = math.log10(least) - 0.15, math.log10(most) + 0.15
    room = max(0.0, 1 - (high - low)) / 2
    return low - room, high + room


#: Where it is anchored (x, y), what it says, and how: "start" or "end".
Label = tuple[float, float, str, str]
#: What a label must not lie on: left, right, top, bottom.
Box = tuple[float, float, float, float]


def _apart(labels: Sequence[Sequence[Label]], taken: Sequence[Box], room: Box) -> list[Label]:
    """Of each label the first place in the ``room`` where it lies on no other and on nothing that is ``taken``; where
    there is none, as near as possible to the first one."""
    boxes, placed = list(taken), []
    for places in labels:
        moved = ((x, y + by, said, how) for by in range(3, 200, 3) for x, y, said, how in places[1:] or places)
        back = ((x, y - by, said, how) for by in range(3, 200, 3) for x, y, said, how in places[1:] or places)
        tries = [*places, *(each for pair in zip(moved, back, strict=True) for each in pair)]
        free = (
            each for each in tries if _inside(_box(each), room) and not any(_meet(_box(each), box) for box in boxes)
        )
        placed.append(next(free, places[0]))
        boxes.append(_box(placed[-1]))
    return placed


def _inside(box: Box, room: Box) -> bool:
    return room[0] <= box[0] and box[1] <= room[1] and room[2] <= box[2] and box[3] <= room[3]


def _box(label: Label) -> Box:
    across, up, said, anchor = label
    left = across - _LETTER * len(said) if anchor == "end" else across
    return left, left + _LETTER * len(said), up - 11, up + 3


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _label(across: float, up: float, said: str, anchor: str) -> str:
    return text(across, up, said, anchor, 12.5, "value", weight=600)


def margins_svg(case: Mapping[str, Any], systems: Sequence[str], width: int = 860) -> str:
    """Return the histogram of the test queries' differences between two systems, level ones as a bar of their own; "" where
    nothing was measured."""
    bars = case["margins"]
    if not (bars or case["level"]):
        return ""
    step = bars[0][1] - bars[0][0] if bars else 1.0
    lost, won = [each for each in bars if each[1] <= 0], [each for each in bars if each[0] >= 0]
    told = [*(("lost", each) for each in lost), ("level", (0.0, 0.0, case["level"])), *(("won", each) for each in won)]
    height, bar = 210, (width - LEFT - RIGHT) / len(told)
    bottom = height - BELOW
    ticks = round_ticks(0, max(each[2] for _, each in told), 4)
    parts = [
        horizontal(bottom - tick / ticks[-1] * (bottom - 28), width - RIGHT, f"{tick:,.0f}")
        for tick in ticks
        if tick == int(tick)
    ]
    for place, (kind, (low, high, count)) in enumerate(told):
        left, tall = LEFT + place * bar, count / ticks[-1] * (bottom - 28)
        said = "level" if kind == "level" else f"{low:+g} to {high:+g}".replace("-", "\N{MINUS SIGN}")
        parts.append(
            f'<rect class="{kind}" x="{left + 1:.2f}" y="{bottom - tall:.2f}" width="{bar - 2:.2f}" height="{tall:.2f}">'
            f"<title>{escape(said)}: {count:,} queries</title></rect>"
        )
        if count:
            parts.append(
                text(left + bar / 2, bottom - tall - 5, f"{count:,}", "middle", 11 if bar > 24 else 9, "value")
            )
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{width - RIGHT}"/>')
    for bound in round_ticks(bars[0][0], bars[-1][1], 10 if width > 600 else 4) if bars else ():
        border = round(bound / step, 6)
        if border.is_integer() and border and -len(lost) <= border <= len(won):
            across = LEFT + (len(lost) + border + (border > 0)) * bar
            anchor = "end" if across > width - RIGHT - 12 else "middle"
            parts.append(text(across, bottom + 15, f"{bound:+g}".replace("-", "\N{MINUS SIGN}"), anchor, 11, "faint"))
    parts.append(text(LEFT + (len(lost) + 0.5) * bar, bottom + 15, "0", "middle", 11, "faint"))
    axis = "difference of a query: lost to the left, level in the middle, won to the right"
    parts.append(
        text((LEFT + width - RIGHT) / 2, height - 10, axis if width > 600 else "difference of a query", "middle", 11.5)
    )
    name = (
        f"{title(case['system'])} against {title(case['against'])}, query by query: {case['won']:,} won, {case['lost']:,} "
        f"lost, {case['level']:,} level"
    )
    return frame("".join(parts), width, height, systems, name)
