"""The report's figures: right numbers, nothing on top of another, and a name for those who do not see them."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inranker_flow.evaluation.wins_and_losses import margins
from inranker_flow.report.chart import chart_svg
from inranker_flow.report.curves import curve_svg, depth_svg
from inranker_flow.report.drawing import round_ticks
from inranker_flow.report.page import render
from inranker_flow.report.plots import cost_svg, margins_svg
from inranker_flow.report.rows import sweeps
from tests.summaries import RISING, TWO, make_summary, rich_summary, text_of

SVG = "{http://www.w3.org/2000/svg}"


def bars(svg: ElementTree.Element) -> list[tuple[float, float, float]]:
    """(left edge, right edge, height) of each bar, from its path."""
    found = []
    for path in svg.iter(f"{SVG}path"):
        if path.get("class", "").startswith("s-"):
            left, rise, round_, wide = re.match(
                r"M([\d.]+) [\d.]+v-([\d.]+)q0 -([\d.]+) [\d.]+ -[\d.]+h([\d.]+)", path.get("d", "")
            ).groups()  # type: ignore[union-attr]
            found.append((float(left), float(left) + float(wide) + 2 * float(round_), float(rise) + float(round_)))
    return found


@pytest.mark.parametrize("width", [360, 860])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_bars_are_as_tall_as_their_values_and_do_not_overlap(width: int, count: int) -> None:
    datasets = {f"dataset-{i}": {**RISING, "champion": 0.1 * (i + 1)} for i in range(count)}
    svg = ElementTree.fromstring(chart_svg(make_summary(datasets), width))
    found = bars(svg)
    values = [value for means in datasets.values() for value in means.values()]
    assert len(found) == len(values)
    for (left, right, height), value in zip(found, values, strict=True):
        assert height / found[3][2] == pytest.approx(value / 0.998, abs=1e-3)
        assert 0 < left < right < width
    for group in range(count):
        own = found[5 * group : 5 * group + 5]
        assert all(before[1] <= after[0] for before, after in pairwise(own))
    shown = [text.text for text in svg.iter(f"{SVG}text") if "value" in text.get("class", "")]
    assert {"0.2200", "0.5000", "0.9600", "0.9980", "0.1000"} <= set(shown)


def test_the_chart_speaks_to_those_who_do_not_see_it() -> None:
    svg = ElementTree.fromstring(chart_svg(make_summary(TWO)))
    title, description = svg.find(f"{SVG}title"), svg.find(f"{SVG}desc")
    assert svg.get("role") == "img" and svg.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "nDCG@10 by dataset and system"
    assert "demo-target: BM25 0.220, Phase 1 0.500, Phase 2 0.960, Teacher 0.998." in description.text
    legend = [text.text for text in svg.iter(f"{SVG}text")]
    assert all(name in legend for name in ("BM25", "Phase 1", "Phase 2", "Teacher", "best possible"))


def test_the_best_possible_value_is_drawn_where_it_limits() -> None:
    summary = make_summary(TWO)
    assert chart_svg(summary).count('<path class="best"') == 3  # two datasets and the legend
    for found in summary["datasets"].values():
        found["ceiling"]["means"]["nDCG@10"] = 1.0
    assert '<path class="best"' not in chart_svg(summary) and "best possible" not in chart_svg(summary)


def circles(svg: ElementTree.Element) -> dict[str, tuple[float, float]]:
    """Tooltip -> (x, y) of each point."""
    return {
        circle.find(f"{SVG}title").text.partition(":")[0]: (float(circle.get("cx")), float(circle.get("cy")))  # type: ignore[union-attr, arg-type]
        for circle in svg.iter(f"{SVG}circle")
    }


@pytest.mark.parametrize("width", [360, 860])
def test_the_cost_chart_places_models_by_latency_and_quality(width: int) -> None:
    summary = make_summary({"a": {**RISING, "champion": 0.5}, "b": {**RISING, "champion": 0.5}})
    latencies = {"phase1": 10.0, "phase2": 100.0, "teacher": 1000.0, "champion": 10.0}
    for name, value in latencies.items():
        summary["models"][name] |= {"latency_median_ms": value, "latency_p95_ms": value * 1.5}
    summary["models"]["champion"]["same_as"] = "phase1"
    svg = ElementTree.fromstring(cost_svg(summary, width))
    found = circles(svg)
    assert list(found) == ["Phase 1 = Champion", "Phase 2", "Teacher"], "equal models are one point"
    (x1, y1), (x2, y2), (x3, y3) = found.values()
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2), "a decade is a decade"
    assert (y1 - y2) / (y1 - y3) == pytest.approx((0.96 - 0.5) / (0.998 - 0.5), abs=0.01)
    [floor] = [path for path in svg.iter(f"{SVG}path") if path.get("stroke-dasharray")]
    assert float(floor.get("d").split()[1].split("H")[0]) > y1 and "no reranking" in floor.find(f"{SVG}title").text  # type: ignore[union-attr]
    assert "10.0 ms" in svg.get("aria-label", "")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.1, 1e5), st.floats(1, 4)), min_size=4, max_size=4), st.booleans()
)
def test_labels_of_the_cost_chart_stay_inside_and_apart(points: list[tuple[float, float, float]], wide: bool) -> None:
    names = ["phase1", "phase2", "teacher", "champion"]
    values = {name: value for name, (value, _, _) in zip(names, points, strict=True)}
    summary = make_summary({"d": {"bm25": 0.3, **values}})
    for name, (_, median, tail) in zip(names, points, strict=True):
        summary["models"][name] |= {"latency_median_ms": median, "latency_p95_ms": median * tail}
    width = 860 if wide else 360
    svg = ElementTree.fromstring(cost_svg(summary, width))
    boxes = []
    for label in svg.iter(f"{SVG}text"):
        if label.get("class") == "value":
            # As wide as in DejaVu Sans Bold.
            x, y, size = float(label.get("x")), float(label.get("y")), 7.6 * len(label.text)  # type: ignore[arg-type]
            left = x - size if label.get("text-anchor") == "end" else x
            boxes.append((left, left + size, y - 11, y + 3))
    assert len(boxes) == 5
    for left, right, top, bottom in boxes:
        assert left >= 44 and right <= width and top >= 0 and bottom <= 256, "beyond are the labels of the axes"
    touch = 0.01  # pixels: what lies side by side may share an edge, whatever its last digits
    for one, other in combinations(boxes, 2):
        beside = one[0] + touch > other[1] or other[0] + touch > one[1]
        assert beside or one[2] + touch > other[3] or other[2] + touch > one[3]


def test_the_histogram_of_margins_has_a_bar_for_each_step_and_one_for_what_is_level() -> None:
    case = rich_summary()["cases"][0]
    svg = ElementTree.fromstring(margins_svg(case, ["bm25", "phase2", "champion"]))
    drawn = [
        (rect.get("class"), float(rect.get("x", 0)), float(rect.get("height", 0)))
        for rect in svg.iter(f"{SVG}rect")
        if rect.get("class") != "ground"
    ]
    assert [kind for kind, _, _ in drawn] == ["lost"] * 3 + ["level"] + ["won"] * 3
    heights = [height for _, _, height in drawn]
    assert heights[0] / heights[5] == pytest.approx(1 / 10, abs=0.01) and heights[1] == heights[2] == heights[4] == 0
    assert heights[3] / heights[5] == pytest.approx(5 / 10, abs=0.01), "level"
    steps = {round(after[1] - before[1], 1) for before, after in pairwise(drawn)}
    assert len(steps) == 1, "bars of one width"
    assert "12 won, 1 lost, 5 level" in svg.get("aria-label", "")
    assert margins_svg({**case, "margins": [], "level": 0}, ["bm25"]) == ""


@given(st.lists(st.floats(-20, 20), max_size=30))
def test_margins_are_counted_once_and_in_the_bar_that_holds_them(differences: list[float]) -> None:
    found = margins(np.array(differences))
    told = [each for each in differences if abs(each) > 1e-9]
    assert sum(count for _, _, count in found) == len(told) and len(found) <= 20
    for low, high, count in found:
        near = 1e-6 * max(1, abs(low), abs(high))
        inside = [each for each in told if low - near <= each <= high + near and (each > 0) == (high > 0)]
        assert len(inside) >= count
    assert all(before[1] == after[0] for before, after in pairwise(found))


@given(st.floats(-100, 100), st.one_of(st.just(0.0), st.floats(1e-6, 1e6)))
def test_ticks_are_round_and_hold_all_values(low: float, spread: float) -> None:
    ticks = round_ticks(low, low + spread, 5)
    steps = [after - before for before, after in pairwise(ticks)]
    near = 1e-6 * steps[0] + 1e-9
    assert 2 <= len(ticks) <= 7 and ticks[0] <= low + near and ticks[-1] >= low + spread - near
    assert f"{steps[0]:.0e}"[0] in "125" and steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)


def test_a_line_for_each_system_says_how_deep_to_rerank() -> None:
    summary = rich_summary()
    found = sweeps(summary)
    assert [each["name"] for each in found] == ["the mean over the datasets", "d<i>", "e"]
    assert found[0]["depths"]["champion"] == {"20": pytest.approx(0.425), "100": pytest.approx(0.85)}, "of .9 and .8"
    svg = ElementTree.fromstring(depth_svg(found[0], summary))
    points = circles(svg)
    assert len(points) == 4 * 2 and "Phase 2, 20 candidates" in points
    up = {name: y for name, (_, y) in points.items()}
    assert up["Phase 2, 100 candidates"] < up["Phase 2, 20 candidates"] < up["Phase 1, 20 candidates"], (
        "better is higher"
    )
    assert depth_svg({**found[0], "depths": {}}, summary) == ""


def test_training_curves_show_the_loss_the_held_out_queries_and_what_was_kept() -> None:
    training = rich_summary()["training"]["phase2"]
    svg = ElementTree.fromstring(curve_svg("phase2", training, ["bm25", "phase1", "phase2"]))
    line = next(path.get("d", "") for path in svg.iter(f"{SVG}path") if path.get("class") == "l-2")
    points = [tuple(map(float, pair.split())) for pair in line[1:].split("L")]
    assert len(points) == 3 and points[0][1] < points[1][1] < points[2][1], "a falling loss"
    held = [circle for circle in svg.iter(f"{SVG}circle") if circle.find(f"{SVG}title") is not None]
    assert [circle.get("class") for circle in held] == ["held", "held kept", "held"]
    assert "held-out loss 1.5" in held[1].find(f"{SVG}title").text  # type: ignore[union-attr, operator]
    assert max(float(circle.get("cy", 0)) for circle in held) < points[2][1]
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert {"0", "1", "2", "3", "100", "200", "300"} <= set(texts) and "learning rate, 0.004 at its peak" in texts
    rate = next(path.get("d", "") for path in svg.iter(f"{SVG}path") if path.find(f"{SVG}title") is not None)
    ups = [float(pair.split()[1]) for pair in rate[1:].split("L")]
    assert len(ups) == 3 and ups[1] < ups[2] < ups[0], "up to its peak, then down"


def test_the_caption_says_which_line_is_the_interval_and_which_the_latency() -> None:
    said = "Vertical lines: 95 % bootstrap interval of the mean; horizontal lines: from the median latency to the 95th percentile"
    summary = rich_summary()
    assert said in text_of(render(summary))
    svg = ElementTree.fromstring(cost_svg(summary))
    drawn = [path.get("d", "") for path in svg.iter(f"{SVG}path") if path.get("stroke-width") == "1.75"]
    lying, standing = [d for d in drawn if "H" in d and "m0 -4v8" in d], [d for d in drawn if "V" in d]
    assert len(lying) == len(standing) == len(circles(svg)), "as many of each as points"
    for model in summary["models"].values():
        model |= {"latency_median_ms": None, "latency_p95_ms": None}
    assert "Vertical lines" not in render(summary), "there is no chart then"
