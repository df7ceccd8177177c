"""THE chart: the headline measure by dataset and system, as one SVG that needs nothing around it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from inranker_flow.report.wording import number

#: First stages, by their kind: what every other system reranks.
_FIRST = {
    "bm25": "BM25", "dense": "Bi-encoder", "hybrid": "BM25 + bi-encoder", "run": "Run files", "opensearch": "Search index",
    "candidates": "First stage",
}  # fmt: skip
_TITLES = {**_FIRST, "phase1": "Phase 1", "phase2": "Phase 2", "teacher": "Teacher", "champion": "Champion"}
#: (light, dark) theme. Distinct for colour-blind readers, and by lightness alone: grey, pale, strong, ochre, purple.
_COLOURS = {
    **dict.fromkeys(_FIRST, ("#9aa3ae", "#77808c")),
    "phase1": ("#8ec1ea", "#4f86b5"),
    "phase2": ("#0b5cad", "#4aa8ff"),
    "teacher": ("#d8931f", "#e0a63c"),
    "champion": ("#7d4698", "#b98ad3"),
}
#: For students with names of their own.
_MORE = (("#2a9d8f", "#48c5b5"), ("#0b5cad", "#4aa8ff"), ("#c4577f", "#e687a9"), ("#5d6d1e", "#a9bd55"))

_STYLE = """
.irf{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;
--ground:#fff;--ink:#1b2430;--faint:#5c6875;--line:#e3e7ec;--axis:#8b95a1;--up:#12915a;--down:#cf4a3f}
.irf .ground{fill:var(--ground)}.irf text{fill:var(--ink)}.irf .faint{fill:var(--faint)}
.irf .grid{stroke:var(--line)}.irf .axis{stroke:var(--axis)}.irf .best{stroke:var(--faint);stroke-dasharray:4 3}
.irf .won{fill:var(--up)}.irf .lost{fill:var(--down)}.irf .level{fill:var(--axis)}
.irf .rate{fill:none;stroke:var(--axis);stroke-width:1.5;stroke-dasharray:5 3}
.irf .held{fill:var(--ground);stroke:var(--ink);stroke-width:1.5}.irf .kept{fill:var(--ink)}
.irf .whisker{stroke:var(--ink);stroke-opacity:.65;stroke-width:1.25}
.irf .value{font-variant-numeric:tabular-nums;
paint-order:stroke;stroke:var(--ground);stroke-width:4px;stroke-linejoin:round}
"""
_DARK = ".irf{--ground:#12171e;--ink:#e8edf3;--faint:#9aa6b4;--line:#2a333e;--axis:#66717e;--up:#3fb27f;--down:#f0776c}"

#: A best possible value above this is the top of the axis: a line there would say nothing.
_PERFECT = 0.995
_LEFT, _RIGHT, _PLOT, _BELOW, _GAP = 40, 12, 216, 34, 40
#: Narrower bars have their values upright.
_LYING = 42.0


def title(system: str) -> str:
    """Return a system's name on the page."""
    return _TITLES.get(system, system)


def colours(systems: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return system -> (light, dark) colour."""
    others = [system for system in systems if system not in _COLOURS]
    return {
        system: _COLOURS[system] if system in _COLOURS else _MORE[others.index(system) % len(_MORE)]
        for system in systems
    }


def chart_svg(summary: Mapping[str, Any], width: int = 860) -> str:
    """Return grouped bars of ``summary`` (summary.json as data), ``width`` units wide; usable inline and as a file.

    Datasets that do not fit beside each other continue in a row below. It follows the reader's light or dark theme.
    """
    headline, systems, datasets = summary["headline"], summary["systems"], summary["datasets"]
    intervals = summary["intervals"]
    name = f"irf-{width}"
    limited = any(each["ceiling"]["means"][headline] <= _PERFECT for each in datasets.values())
    legend, legend_height = _legend(systems, limited, width)

    # A bar is at least 15 units wide, so that its value fits above it, upright if need be.
    least = len(systems) * 15 + 28
    room = width - _LEFT - _RIGHT
    rows = math.ceil(len(datasets) / max(1, room // least)) or 1
    in_row = math.ceil(len(datasets) / rows) or 1
    top = 44 + legend_height + (0 if _bar(room / in_row, len(systems)) >= _LYING else 26)
    height = top + rows * (_PLOT + _BELOW) + (rows - 1) * _GAP + 8
    names = list(datasets)
    body = []
    for row in range(rows):
        base = top + row * (_PLOT + _BELOW + _GAP) + _PLOT
        body.append(_axis(base, width))
        for place, dataset in enumerate(names[row * in_row : (row + 1) * in_row]):
            left = _LEFT + room * place / in_row
            body.append(_group(dataset, datasets[dataset], systems, intervals, headline, left, room / in_row, base))
    if not datasets:
        middle = top + _PLOT / 2
        body.append(f'<text x="{width / 2}" y="{middle}" text-anchor="middle" font-size="14">No test queries</text>')

    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="irf" viewBox="0 0 {width} {height:g}" width="{width}" '
        f'height="{height:g}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(headline)} by dataset and system</title>'
        f'<desc id="{name}-d">{escape(_description(summary))}</desc>'
        f"<style>{style(systems)}</style>"
        f'<rect class="ground" width="{width}" height="{height:g}" rx="10"/>'
        f'<text x="14" y="26" font-size="15" font-weight="650">{escape(headline)} '
        f'<tspan class="faint" font-weight="400" font-size="12.5">{escape(_subtitle(width))}</tspan></text>'
        f"{legend}{''.join(body)}</svg>"
    )


def style(systems: Sequence[str]) -> str:
    """Return the CSS of every chart of a page, for both themes."""
    paint = colours(systems)
    light, dark = (
        "".join(
            f".irf .s-{i}{{fill:{paint[system][theme]}}}.irf .l-{i}{{stroke:{paint[system][theme]};fill:none}}"
            for i, system in enumerate(systems)
        )
        for theme in (0, 1)
    )
    return f"{_STYLE}{light}@media (prefers-color-scheme:dark){{{_DARK}{dark}}}"


def _subtitle(width: int) -> str:
    return (
        "the same candidates, the same queries; 95\N{NO-BREAK SPACE}% intervals"
        if width > 600
        else "with 95 % intervals"
    )


def _legend(systems: Sequence[str], ceiling: bool, width: int) -> tuple[str, int]:
    """Return swatches with names, wrapped to ``width``; and the height they take."""
    parts, x, y = [], 14.0, 44
    entries = [*enumerate(systems), *([(-1, "best possible")] if ceiling else [])]
    for index, system in entries:
        # Widths of wide letters at this size: better air than overlap in whatever font the reader has.
        size = 18 + sum(8.8 if letter.isupper() or letter.isdigit() else 6.7 for letter in title(system)) + 14
        if x + size > width - 6 and x > 14:
            x, y = 14.0, y + 20
        if index < 0:
            parts.append(f'<path class="best" d="M{x:g} {y}h13" stroke-width="1.5"/>')
        else:
            parts.append(f'<rect class="s-{index}" x="{x:g}" y="{y - 6}" width="12" height="12" rx="2.5"/>')
        parts.append(f'<text x="{x + 18:g}" y="{y + 4.5}" font-size="12.5">{escape(title(system))}</text>')
        x += size
    return "".join(parts), y - 44 + 30


def _axis(base: float, width: int) -> str:
    parts = []
    for step in range(6):
        value = step / 5
        y = base - value * _PLOT
        kind = "grid" if step else "axis"
        parts.append(f'<path class="{kind}" d="M{_LEFT} {y:g}H{width - _RIGHT}"/>')
        parts.append(
            f'<text class="faint value" x="{_LEFT - 7}" y="{y + 4:g}" text-anchor="end" font-size="11">{value:g}</text>'
        )
    return "".join(parts)


def _bar(room: float, systems: int) -> float:
    return min(58.0, (room - 24) / systems)


def _group(
    dataset: str,
    found: Mapping[str, Any],
    systems: Sequence[str],
    intervals: Mapping[str, Any],
    headline: str,
    left: float,
    room: float,
    base: float,
) -> str:
    """Return the bars of one dataset, centred in ``room``."""
    bar = _bar(room, len(systems))
    start = left + (room - bar * len(systems)) / 2
    bars, whiskers, values = [], [], []
    for index, system in enumerate(systems):
        value = found["systems"][system]["means"][headline]
        tall = max(0.0, min(1.0, value)) * _PLOT
        x, y = start + index * bar, base - tall
        gap = 1.0 if bar < 24 else 2.0
        wide, round_ = bar - 2 * gap, min(3.0, tall / 2)
        low, high = intervals[system][dataset]
        tooltip = f"{dataset}, {title(system)}: {headline} {value:.4f}, 95 % interval {low:.4f} to {high:.4f}"
        bars.append(
            f'<path class="s-{index}" d="M{x + gap:.2f} {base:g}v{-(tall - round_):.2f}q0 {-round_:.2f} '
            f"{round_:.2f} {-round_:.2f}h{wide - 2 * round_:.2f}q{round_:.2f} 0 {round_:.2f} {round_:.2f}"
            f'v{tall - round_:.2f}z"><title>{escape(tooltip)}</title></path>'
        )
        middle = x + bar / 2
        top = base - max(0.0, min(1.0, high)) * _PLOT
        whiskers.append(
            f'<path class="whisker" d="M{middle:.2f} {base - max(0.0, low) * _PLOT:.2f}V{top:.2f}m-3 0h6" fill="none"/>'
        )
        y = min(y, top)
        if bar >= _LYING:
            where = f'x="{middle:.2f}" y="{y - 5:.2f}" text-anchor="middle" font-size="11.5"'
        else:
            where = f'transform="translate({middle + 3.6:.2f} {y - 5:.2f}) rotate(-90)" font-size="10"'
        values.append(f'<text class="value" {where}>{number(value)}</text>')
    best, ceiling = found["ceiling"]["means"][headline], ""
    if best <= _PERFECT:
        ceiling = (
            f'<path class="best" d="M{start - 3:.2f} {base - max(0.0, best) * _PLOT:.2f}h{bar * len(systems) + 6:.2f}" '
            f'stroke-width="1.5"><title>{escape(dataset)}: no reranking of these candidates can pass '
            f"{escape(headline)} {best:.4f}</title></path>"
        )
    fits = max(4, int(room / 7.2))
    label = dataset if len(dataset) <= fits else dataset[: fits - 1] + "…"
    middle = left + room / 2
    below = (
        f'<text x="{middle:.2f}" y="{base + 17:g}" text-anchor="middle" font-size="12.5" font-weight="600">'
        f"{escape(label)}<title>{escape(dataset)}</title></text>"
        f'<text class="faint" x="{middle:.2f}" y="{base + 31:g}" text-anchor="middle" font-size="10.5">'
        f"{found['queries']:,} queries</text>"
    )
    return "".join([*bars, ceiling, *whiskers, *values, below])  # values last: their halo parts them from the lines


def _description(summary: Mapping[str, Any]) -> str:
    headline = summary["headline"]
    return " ".join(
        f"{dataset}: "
        + ", ".join(f"{title(s)} {found['systems'][s]['means'][headline]:.3f}" for s in summary["systems"])
        + "."
        for dataset, found in summary["datasets"].items()
    )
