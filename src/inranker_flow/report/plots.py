"""The report's other figures: quality against cost, all queries won and lost, training curves; each one inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from inranker_flow.report.chart import number, style, title

_LEFT, _RIGHT, _TOP, _BELOW = 44, 16, 18, 44
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
    above = _TOP + 16  # room for the label of what is perfect
    low, high = _decades(min(shown.values()), max(tails.values()))
    ticks = _ticks([bound for s in systems for bound in _interval(summary, s)])
    least, most = ticks[0], ticks[-1]
    right, bottom = width - _RIGHT, height - _BELOW

    def x(value: float) -> float:
        return _LEFT + (math.log10(value) - low) / (high - low) * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - (value - least) / (most - least) * (bottom - above)

    parts = [_horizontal(y(tick), right, f"{tick:.1f}") for tick in ticks]
    for power, digit in ((p, d) for p in range(math.floor(low), math.ceil(high) + 1) for d in (1, 2, 5)):
        value = digit * 10.0**power
        if low - 1e-9 <= math.log10(value) <= high + 1e-9 and (
            digit == 1 or high - low < (2.2 if width > 600 else 1.2)
        ):
            parts.append(f'<path class="grid" d="M{x(value):.1f} {above}V{bottom}"/>')
            parts.append(_text(x(value), bottom + 16, _milliseconds(value), "middle", 11, "faint"))
    axis = "median latency of reranking 100 passages; a line to the 95th percentile"
    axis = axis if width > 600 else "median for 100 passages, line to p95"
    parts.append(_text((_LEFT + right) / 2, height - 8, axis, "middle", 11.5))
    first = systems[0]
    base = y(values[first])
    parts.append(
        f'<path class="l-0" d="M{_LEFT} {base:.1f}H{right}" stroke-width="1.75" '
        f'stroke-dasharray="6 4"><title>{escape(title(first))} alone: {headline} {values[first]:.4f}, no reranking</title></path>'
    )
    labels: list[list[Label]] = []
    taken: list[Box] = [(_LEFT, right, base - 1, base + 1)]
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
        text, tail = f"{name} {number(values[system])}", x(tails[system])
        # Behind the line, before the point, above or below it.
        labels.append(
            [
                (tail + 9, up + 4.5, text, "start"),
                (across - 12, up + 4.5, text, "end"),
                (across - 4, up - 11, text, "start"),
                (across - 4, up + 20, text, "start"),
            ]
        )
    floor = f"{title(first)} {number(values[first])}, no reranking"
    labels.append([(_LEFT + 6, base - 6, floor, "start"), (right - 2, base - 6, floor, "end")])
    # Not up to the axis, whose own labels stand to its left.
    parts += [_label(*each) for each in _apart(labels, taken, (_LEFT + 2, right, 2, bottom))]
    described = ". ".join(f"{title(s)}: {headline} {values[s]:.3f} at {shown[s]:.1f} ms" for s in timed)
    name = f"{headline} against latency. {title(first)}: {values[first]:.3f} without reranking. {described}."
    return _svg("".join(parts), width, height, systems, name)


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


def _ticks(values: Sequence[float]) -> list[float]:
    """Return multiples of a tenth or a fifth, the first below all values and the last above them, at least two; coarser ones
    for a measure that counts."""
    spread = max(values) - min(values)
    step = 0.2 if spread > 0.5 else 0.1
    if spread > 2:
        step = 10.0 ** math.ceil(math.log10(spread / 10))
    first = max(0, math.floor(min(values) / step + 1e-9))
    last = max(first + 1, math.ceil(max(values) / step - 1e-9))
    return [round(step * i, 1) for i in range(first, last + 1)]


#: Where it is anchored (x, y), what it says, and how: "start" or "end".
Label = tuple[float, float, str, str]
#: What a label must not lie on: left, right, top, bottom.
Box = tuple[float, float, float, float]


def _apart(labels: Sequence[Sequence[Label]], taken: Sequence[Box], room: Box) -> list[Label]:
    """Of each label the first place in the ``room`` where it lies on no other and on nothing that is ``taken``; where
    there is none, as near as possible to the first one."""
    boxes, placed = list(taken), []
    for places in labels:
        moved = ((x, y + by, text, how) for by in range(3, 200, 3) for x, y, text, how in places[1:] or places)
        back = ((x, y - by, text, how) for by in range(3, 200, 3) for x, y, text, how in places[1:] or places)
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
    across, up, text, anchor = label
    left = across - _LETTER * len(text) if anchor == "end" else across
    return left, left + _LETTER * len(text), up - 11, up + 3


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _label(across: float, up: float, text: str, anchor: str) -> str:
    return _text(across, up, text, anchor, 12.5, "value", weight=600)


def differences_svg(case: Mapping[str, Any], systems: Sequence[str], width: int = 860) -> str:
    """Return every test query's difference between two systems, sorted: how many are won and lost, and by how much."""
    curve = sorted(case["curve"], reverse=True)
    if not curve:
        return ""
    height, bar = 170, (width - _LEFT - _RIGHT) / len(curve)
    most = max(0.05, max(abs(value) for value in curve))
    middle, half = 14 + (height - 44) / 2, (height - 44) / 2
    parts = [
        _horizontal(middle - value / most * half, width - _RIGHT, f"{value:+.2f}".replace("-", "−"))
        for value in (most, -most)
    ]
    for index, value in enumerate(curve):
        tall = abs(value) / most * half
        up = middle - tall if value > 0 else middle
        parts.append(
            f'<rect class="{"won" if value > 0 else "lost"}" x="{_LEFT + index * bar:.2f}" y="{up:.2f}" '
            f'width="{max(bar - (0.6 if bar > 3 else 0), 0.5):.2f}" height="{tall:.2f}"/>'
        )
    parts.append(f'<path class="axis" d="M{_LEFT} {middle:g}H{width - _RIGHT}"/>')
    name = (
        f"{title(case['system'])} against {title(case['against'])}, query by query: {case['won']:,} won, {case['lost']:,} "
        f"lost, {case['level']:,} level"
    )
    parts.append(
        _text(_LEFT, height - 10, "the queries, from the largest win to the largest loss", "start", 11, "faint")
    )
    return _svg("".join(parts), width, height, systems, name)


def curve_svg(student: str, training: Mapping[str, Any], systems: Sequence[str], width: int = 420) -> str:
    """Return the loss of one phase by step: of training as a line, on held-out queries as points; the step that was kept."""
    height = 230
    train, heldout, last = training["train"], training["heldout"], training["steps"]
    losses = [loss for _, loss, *_ in (*train, *heldout) if math.isfinite(loss)]
    most = max(losses, default=1.0) or 1.0
    right, bottom, index = width - _RIGHT, height - _BELOW, systems.index(student) if student in systems else 0

    def at(step: float, loss: float) -> str:
        return (
            f"{_LEFT + step / last * (right - _LEFT):.1f} {bottom - max(0.0, loss) / most * (bottom - _TOP - 10):.1f}"
        )

    parts = []
    for share in (0.0, 0.5, 1.0):
        parts.append(_horizontal(bottom - share * (bottom - _TOP - 10), right, f"{share * most:.3g}"))
    parts.append(f'<path class="l-{index}" d="M{"L".join(at(*each) for each in train)}" stroke-width="2"/>')
    for step, loss, kendall in heldout:
        place = at(step, loss).split()
        kept = step == training["best_step"]
        parts.append(
            f'<circle class="held{" kept" if kept else ""}" cx="{place[0]}" cy="{place[1]}" r="{4.5 if kept else 3.2}">'
            f"<title>step {step:,}: held-out loss {loss:.4g}, {_agreement(kendall)}</title></circle>"
        )
    for step, anchor in ((0, "start"), (last, "end")):
        parts.append(_text(_LEFT if not step else right, bottom + 16, f"{step:,}", anchor, 11, "faint"))
    parts.append(_text((_LEFT + right) / 2, bottom + 32, "steps", "middle", 11.5))
    parts.append(
        f'<path class="l-{index}" d="M{_LEFT} 10h16" stroke-width="2"/>'
        + _text(_LEFT + 21, 14, "training", "start", 11.5)
        + f'<circle class="held" cx="{_LEFT + 84}" cy="10" r="3.2"/>'
        + _text(_LEFT + 92, 14, "held-out queries", "start", 11.5)
        + f'<circle class="held kept" cx="{_LEFT + 197}" cy="10" r="4.5"/>'
        + _text(_LEFT + 206, 14, "kept", "start", 11.5)
    )
    final = f"{train[-1][1]:.4g}" if train else "unknown"
    return _svg(
        "".join(parts), width, height, systems, f"{title(student)}: {training['loss']} loss by step, at last {final}"
    )


def _agreement(kendall: float | None) -> str:
    """Of the held-out queries; none of them may have two documents that the teacher tells apart."""
    return "Kendall's tau not defined" if kendall is None else f"Kendall's tau with the teacher {kendall:.3f}"


def _horizontal(up: float, right: float, label: str) -> str:
    return f'<path class="grid" d="M{_LEFT} {up:.1f}H{right:g}"/>' + _text(_LEFT - 7, up + 4, label, "end", 11, "faint")


def _text(x: float, y: float, text: str, anchor: str, size: float, kind: str = "", weight: int = 400) -> str:
    return (
        f'<text{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
        f'font-size="{size:g}"{f" font-weight={chr(34)}{weight}{chr(34)}" if weight != 400 else ""}>{escape(text)}</text>'
    )


def _svg(body: str, width: int, height: float, systems: Sequence[str], name: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="irf" viewBox="0 0 {width} {height:g}" width="{width}" '
        f'height="{height:g}" role="img" aria-label="{escape(name)}"><style>{style(systems)}</style>'
        f'<rect class="ground" width="{width}" height="{height:g}" rx="10"/>{body}</svg>'
    )
