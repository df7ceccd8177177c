"""The report's other figures: quality against cost, all queries won and lost, training curves; each one inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from inranker_flow.evaluation.chart import number, style, title

_LEFT, _RIGHT, _TOP, _BELOW = 44, 16, 18, 44


def cost_svg(summary: Mapping[str, Any], width: int = 860) -> str:
    """Mean of the headline measure against the median latency of reranking 100 passages, in milliseconds (logarithmic).

    BM25 is the line of what costs no reranking at all. "" where nothing was measured or no latency was.
    """
    systems, headline, models = summary["systems"], summary["headline"], summary["models"]
    timed = [s for s in systems if models.get(s, {}).get("latency_median_ms")]
    if not summary["datasets"] or not timed:
        return ""
    shown = {s: models[s]["latency_median_ms"] for s in timed}
    tails = {s: models[s]["latency_p95_ms"] for s in timed}
    values = {s: summary["average"][s][headline] for s in systems}
    height = 300
    low, high = _decades(min(shown.values()), max(tails.values()))
    least, most = _range([bound for s in systems for bound in _interval(summary, s)])
    right, bottom = width - _RIGHT, height - _BELOW

    def x(value: float) -> float:
        return _LEFT + (math.log10(value) - low) / (high - low) * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - (value - least) / (most - least) * (bottom - _TOP)

    parts = [_horizontal(step, y(step), right) for step in _steps(least, most)]
    for power, digit in ((p, d) for p in range(math.floor(low), math.ceil(high) + 1) for d in (1, 2, 5)):
        value = digit * 10.0**power
        if low - 1e-9 <= math.log10(value) <= high + 1e-9 and (
            digit == 1 or high - low < (2.2 if width > 600 else 1.2)
        ):
            parts.append(f'<path class="grid" d="M{x(value):.1f} {_TOP}V{bottom}"/>')
            parts.append(_text(x(value), bottom + 16, _milliseconds(value), "middle", 11, "faint"))
    parts.append(
        _text(
            (_LEFT + right) / 2, height - 8, "median latency of reranking 100 passages, p95 as a line", "middle", 11.5
        )
    )
    base = y(values["bm25"])
    parts.append(
        f'<path class="l-{systems.index("bm25")}" d="M{_LEFT} {base:.1f}H{right}" stroke-width="1.75" '
        f'stroke-dasharray="6 4"><title>BM25 alone: {headline} {values["bm25"]:.4f}, no reranking</title></path>'
    )
    labels = [(_LEFT + 6, base - 6, f"BM25 {number(values['bm25'])}, no reranking", "start")]
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
        left = across > (_LEFT + right) / 2
        labels.append(
            (across + (-11 if left else 11), up - 9, f"{name} {number(values[system])}", "end" if left else "start")
        )
    parts += [_label(*each) for each in _apart(labels, _TOP + 8, bottom - 4)]
    described = ". ".join(f"{title(s)}: {headline} {values[s]:.3f} at {shown[s]:.1f} ms" for s in timed)
    name = f"{headline} against latency. BM25: {values['bm25']:.3f} without reranking. {described}."
    return _svg("".join(parts), width, height, systems, name)


def _points(summary: Mapping[str, Any], timed: Sequence[str]) -> list[tuple[str, str]]:
    """(label, system): equal models are one point."""
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
    """Logarithms that hold both, with room at the ends and never less than one decade."""
    low, high = math.log10(least) - 0.15, math.log10(most) + 0.15
    room = max(0.0, 1 - (high - low)) / 2
    return low - room, high + room


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Round bounds (tenths) that hold all values, inside [0, 1] where they are."""
    least = math.floor(min(values) * 10 - 1e-9) / 10
    most = math.ceil(max(values) * 10 + 1e-9) / 10
    return max(0.0, least), most if most > least else least + 0.1


def _steps(least: float, most: float) -> list[float]:
    step = 0.1 if most - least <= 0.65 else 0.2
    return [round(least + step * i, 1) for i in range(round((most - least) / step + 0.49)) if least + step * i <= most]


Label = tuple[float, float, str, str]


def _apart(labels: Sequence[Label], top: float, bottom: float) -> list[Label]:
    """The same labels, moved up or down until none lies on another."""
    placed: list[Label] = []
    for across, up, text, anchor in sorted(labels, key=lambda each: -each[1]):
        tries = sorted((up + move for move in range(-96, 97, 4)), key=lambda y: abs(y - up))
        free = (
            y
            for y in tries
            if top <= y <= bottom and not any(_meet((across, y, text, anchor), each) for each in placed)
        )
        placed.append((across, next(free, up), text, anchor))
    return placed


def _meet(one: Label, other: Label) -> bool:
    spans = []
    for across, _, text, anchor in (one, other):
        size = 7.0 * len(text)
        spans.append((across - size, across) if anchor == "end" else (across, across + size))
    (a, b), (c, d) = spans
    return abs(one[1] - other[1]) < 15 and a < d and c < b


def _label(across: float, up: float, text: str, anchor: str) -> str:
    return _text(across, up, text, anchor, 12.5, "value", weight=600)


def differences_svg(case: Mapping[str, Any], systems: Sequence[str], width: int = 860) -> str:
    """Every test query's difference between two systems, sorted: how many are won and lost, and by how much."""
    curve = sorted(case["curve"], reverse=True)
    if not curve:
        return ""
    height, bar = 170, (width - _LEFT - _RIGHT) / len(curve)
    most = max(0.05, max(abs(value) for value in curve))
    middle, half = 14 + (height - 44) / 2, (height - 44) / 2
    parts = [
        _horizontal(value, middle - value / most * half, width - _RIGHT, f"{value:+.2f}".replace("-", "−"))
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
    """The loss of one phase by step: of training as a line, on held-out queries as points; the step that was kept."""
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
        parts.append(_horizontal(share, bottom - share * (bottom - _TOP - 10), right, f"{share * most:.3g}"))
    parts.append(f'<path class="l-{index}" d="M{"L".join(at(*each) for each in train)}" stroke-width="2"/>')
    for step, loss, kendall in heldout:
        place = at(step, loss).split()
        kept = step == training["best_step"]
        parts.append(
            f'<circle class="held{" kept" if kept else ""}" cx="{place[0]}" cy="{place[1]}" r="{4.5 if kept else 3.2}">'
            f"<title>step {step:,}: held-out loss {loss:.4g}, Kendall's tau with the teacher {kendall:.3f}</title></circle>"
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


def _horizontal(value: float, up: float, right: float, label: str | None = None) -> str:
    text = number(value) if label is None else label
    return f'<path class="grid" d="M{_LEFT} {up:.1f}H{right:g}"/>' + _text(_LEFT - 7, up + 4, text, "end", 11, "faint")


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
