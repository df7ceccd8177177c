"""Curves: the loss and the learning rate of a training by step, and a measure by the candidates that are reranked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from inranker_flow.report.chart import title
from inranker_flow.report.drawing import BELOW, LEFT, RIGHT, frame, horizontal, round_ticks, text
from inranker_flow.report.wording import number


def curve_svg(student: str, training: Mapping[str, Any], systems: Sequence[str], width: int = 420) -> str:
    """Return the loss of one phase by step: of training as a line, on held-out queries as points; the step that was kept; and
    the learning rate as a share of its peak."""
    height, top = 250, 52
    train, heldout, last = training["train"], training["heldout"], training["steps"]
    losses = [loss for _, loss, *_ in (*train, *heldout) if math.isfinite(loss)]
    ticks = round_ticks(0.0, max(losses, default=1.0) or 1.0, 4)
    right, bottom, index = width - RIGHT, height - BELOW, systems.index(student) if student in systems else 0

    def at(step: float, share: float) -> str:
        return f"{LEFT + step / last * (right - LEFT):.1f} {bottom - max(0.0, share) * (bottom - top):.1f}"

    parts = [horizontal(bottom - tick / ticks[-1] * (bottom - top), right, f"{tick:g}") for tick in ticks]
    rates = training.get("rates", ())
    peak = max((rate for _, rate in rates), default=0.0)
    if peak:
        line = "L".join(at(step, rate / peak) for step, rate in rates)
        parts.append(f'<path class="rate" d="M{line}"><title>learning rate, at most {peak:g}</title></path>')
    line = "L".join(at(step, loss / ticks[-1]) for step, loss in train)
    parts.append(f'<path class="l-{index}" d="M{line}" stroke-width="2"/>')
    for step, loss, kendall in heldout:
        place = at(step, loss / ticks[-1]).split()
        kept = step == training["best_step"]
        parts.append(
            f'<circle class="held{" kept" if kept else ""}" cx="{place[0]}" cy="{place[1]}" r="{4.5 if kept else 3.2}">'
            f"<title>step {step:,}: held-out loss {loss:.4g}, {_agreement(kendall)}</title></circle>"
        )
    for step in round_ticks(0, last, 6):
        if step <= last:
            across = LEFT + step / last * (right - LEFT)
            parts.append(
                text(across, bottom + 16, f"{step:,.0f}", "end" if across > right - 10 else "middle", 11, "faint")
            )
    parts.append(text((LEFT + right) / 2, bottom + 34, f"step (of {last:,})", "middle", 11.5))
    parts.append(
        f'<path class="l-{index}" d="M14 14h16" stroke-width="2"/>'
        + text(35, 18, "training loss", "start", 11.5)
        + '<circle class="held" cx="132" cy="14" r="3.2"/>'
        + text(141, 18, "on held-out queries", "start", 11.5)
        + '<circle class="held kept" cx="274" cy="14" r="4.5"/>'
        + text(284, 18, "kept", "start", 11.5)
    )
    if peak:
        parts.append(
            '<path class="rate" d="M14 33h16"/>' + text(35, 37, f"learning rate, {peak:g} at its peak", "start", 11.5)
        )
    final = f"{train[-1][1]:.4g}" if train else "unknown"
    name = f"{title(student)}: {training['loss']} loss by step, at last {final}"
    return frame("".join(parts), width, height, systems, name)


def _agreement(kendall: float | None) -> str:
    """Of the held-out queries; none of them may have two documents that the teacher tells apart."""
    return "Kendall's tau not defined" if kendall is None else f"Kendall's tau with the teacher {kendall:.3f}"


def depth_svg(swept: Mapping[str, Any], summary: Mapping[str, Any], width: int = 860) -> str:
    """Return the headline measure by the number of candidates that are reranked, a line for each system, and one for the first
    stage; "" where there are no two numbers. ``swept``: one of `rows.sweeps`."""
    systems, first = summary["systems"], summary["systems"][0]
    lines = swept["depths"]
    depths = list(next(iter(lines.values()), {}))
    if len(depths) < 2:
        return ""
    headline = summary["headline"]
    alone = [found["systems"][first]["means"][headline] for found in summary["datasets"].values()]
    base = summary["average"][first][headline] if swept["name"] not in summary["datasets"] else alone[0]
    values = [base, *(value for line in lines.values() for value in line.values())]
    height, right = 270, width - RIGHT
    bottom, top = height - BELOW, 22
    ticks = round_ticks(min(values), max(values), 5)

    def y(value: float) -> float:
        return bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top)

    # Depths grow like 1, 2, 5, so they stand at equal distances; room at the end for the values.
    xs = [LEFT + 24 + place * (right - LEFT - 84) / (len(depths) - 1) for place in range(len(depths))]
    parts = [horizontal(y(tick), right, f"{tick:g}") for tick in ticks]
    parts.append(
        f'<path class="l-0" d="M{LEFT} {y(base):.1f}H{right}" stroke-width="1.75" stroke-dasharray="6 4">'
        f"<title>{escape(title(first))} alone: {number(base)}</title></path>"
    )
    for system, line in lines.items():
        index = systems.index(system)
        points = "L".join(f"{x:.1f} {y(line[depth]):.1f}" for x, depth in zip(xs, depths, strict=True))
        parts.append(f'<path class="l-{index}" d="M{points}" stroke-width="2.25"/>')
        parts += [
            f'<circle class="s-{index}" cx="{x:.1f}" cy="{y(line[depth]):.1f}" r="4"><title>{escape(title(system))}, {depth} '
            f"candidates: {number(line[depth])}</title></circle>"
            for x, depth in zip(xs, depths, strict=True)
        ]
    # Names at the ends of the lines would lie on one another where systems are level: the legend below the chart has them.
    parts += [text(x, bottom + 16, depth, "middle", 11, "faint") for x, depth in zip(xs, depths, strict=True)]
    parts.append(text((LEFT + right) / 2, height - 8, "candidates that are reranked", "middle", 11.5))
    told = ". ".join(
        f"{title(s)}: " + ", ".join(f"{d} {number(v)}" for d, v in line.items()) for s, line in lines.items()
    )
    return frame("".join(parts), width, height, systems, f"{headline} by the candidates that are reranked. {told}.")
