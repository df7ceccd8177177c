"""The report and its chart: right numbers, well-formed, self-contained, and safe with names that hold markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from inranker_flow.evaluation import chart_svg
from inranker_flow.evaluation.report import headline_sentence, render

SVG = "{http://www.w3.org/2000/svg}"
MEASURES = ["nDCG@10", "R@100"]


def make_summary(
    datasets: dict[str, dict[str, float]], parameters: int = 60_000_000, p: float = 0.001
) -> dict[str, Any]:
    """A summary as the stage writes it, for datasets -> system -> headline mean."""
    systems = list(next(iter(datasets.values()))) if datasets else ["bm25", "phase1", "phase2"]
    students = [system for system in systems if system not in ("bm25", "teacher", "champion")]
    found = {
        name: {
            "queries": 1234, "without_candidates": 0, "pairs": 100, "dropped": 0,
            "ceiling": {"depth": 100, "recall": 0.875, "means": dict.fromkeys(MEASURES, 0.99)},
            "digests": {"collection": "c0" * 32, "candidates": "ca" * 32},
            "systems": {s: {"means": {"nDCG@10": v, "R@100": v / 2}, "tie_rate": 0.125} for s, v in means.items()},
        }
        for name, means in datasets.items()
    }  # fmt: skip
    steps = [*zip(["bm25", *students], students, strict=False)]
    steps += [("bm25", student) for student in students[1:][-1:]]
    steps += [(other, students[-1]) for other in ("teacher", "champion") if students and other in systems]
    return {
        "headline": "nDCG@10", "measures": MEASURES, "systems": systems, "students": students,
        "models": {
            s: {"reference": f"/runs/7/{s}", "revision": "", "digest": "d1" * 32, "parameters": parameters,
                "seconds": 200.0 if s == "teacher" else 10.0, "pairs_per_second": 10.0, "same_as": ""}
            for s in systems if s != "bm25"
        },
        "families": {},
        "leaks": {"queries": 0, "found": [], "similarity": 0.9, "training_sets": ["inns"], "training_queries": 1000,
                  "passages": {}},
        "datasets": found, "skipped": {"marco": "no judged test queries"},
        "average": {
            s: {m: sum(d["systems"][s]["means"][m] for d in found.values()) / len(found) for m in MEASURES}
            for s in systems
        } if found else {},
        "comparisons": [
            {"dataset": name, "measure": measure, "system": system, "against": against, "better": 9, "worse": 1,
             "difference": means[system] - means[against], "queries": 1234, "p": p, "p_holm": p,
             "p_t": p, "p_t_holm": p, "effect": 0.25, "interval": [means[system] - means[against] - 0.01, 0.5]}
            for measure in MEASURES for against, system in steps for name, means in datasets.items()
        ],
        "config": {"evaluation": {"measures": MEASURES}, "teacher": {"checkpoint": "big"}}, "code": "0.1.0-abc",
    }  # fmt: skip


RISING = {"bm25": 0.22, "phase1": 0.5, "phase2": 0.96, "teacher": 0.998}
TWO = {"demo-target": RISING, "demo-source": {"bm25": 0.4, "phase1": 0.9, "phase2": 0.92, "teacher": 0.99}}


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
    assert {".220", ".500", ".960", ".998", ".100"} <= set(shown)


def test_the_chart_speaks_to_those_who_do_not_see_it() -> None:
    svg = ElementTree.fromstring(chart_svg(make_summary(TWO)))
    title, description = svg.find(f"{SVG}title"), svg.find(f"{SVG}desc")
    assert svg.get("role") == "img" and svg.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "nDCG@10 by dataset and system"
    assert "demo-target: BM25 0.220, Phase 1 0.500, Phase 2 0.960, Teacher 0.998." in description.text
    legend = [text.text for text in svg.iter(f"{SVG}text")]
    assert all(name in legend for name in ("BM25", "Phase 1", "Phase 2", "Teacher", "best possible"))


class Page(HTMLParser):
    """Tags, attributes and whether every tag is closed."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_and_fetches_nothing() -> None:
    html = render(make_summary(TWO))
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "srcset") or name.startswith("on")]
    assert "@import" not in html and "url(" not in html
    assert set(re.findall(r"https?://[^\s\"<]+", html)) == {"http://www.w3.org/2000/svg"}  # a namespace, not a fetch


def test_the_page_holds_the_numbers() -> None:
    text = " ".join(Page(render(make_summary(TWO, p=1e-5))).text.split())
    assert headline_sentence(make_summary(TWO)) in text
    for expected in (
        "Not measured: marco, no judged test queries", "demo-target nDCG@10 .220 .500 ▲ .960 ▲ .998 .990",
        "Phase 2 against Teacher demo-target −.038 ▼ −.048 to +.500 < .001 0.25 9 1 1,234", "Mean nDCG@10 .310 .700 .940 .994",
        "12.5%", "87.5%", "60,000,000", "d1d1d1d1d1d1", "collection c0c0c0c0c0c0", "3.3 min", "Code 0.1.0-abc",
        "20.0×", '"checkpoint": "big"',
    ):  # fmt: skip
        assert expected in text.replace("\xa0", " "), expected


def test_the_best_possible_value_is_drawn_where_it_limits() -> None:
    summary = make_summary(TWO)
    assert chart_svg(summary).count('<path class="best"') == 3  # two datasets and the legend
    for found in summary["datasets"].values():
        found["ceiling"]["means"]["nDCG@10"] = 1.0
    assert '<path class="best"' not in chart_svg(summary) and "best possible" not in chart_svg(summary)


def test_marks_say_significant_only_where_it_is() -> None:
    text = Page(render(make_summary(TWO, p=0.2))).text.replace("\xa0", " ")
    assert " ▲" not in text.split("All measures")[1].split("p < 0.05.")[1]


def test_names_with_markup_stay_text() -> None:
    evil = "<script>alert('x')</script>&\"ü"
    summary = make_summary({evil: RISING})
    summary["skipped"] = {evil: evil}
    summary["models"]["phase2"]["reference"] = evil
    html = render(summary)
    assert "<script" not in html and evil in Page(html).text
    assert evil in ElementTree.fromstring(chart_svg(summary)).find(f"{SVG}desc").text


def test_the_same_model_twice_is_said_not_timed() -> None:
    summary = make_summary({"d": {**RISING, "champion": 0.96}})
    summary["models"]["champion"]["same_as"] = "phase2"
    assert "same model as Phase 2" in " ".join(Page(render(summary)).text.split())


@pytest.mark.parametrize(
    ("means", "sentence"),
    [
        (RISING, "Phase 2 reaches nDCG@10 .960 on d: .740 above BM25 and .460 above Phase 1, 96 % of the teacher's."),
        (
            {"bm25": 0.5, "phase1": 0.4, "phase2": 0.4},
            "Phase 2 reaches nDCG@10 .400 on d: .100 below BM25 and level with Phase 1.",
        ),
        (
            {"bm25": 0.5, "phase1": 0.6, "champion": 0.7},
            "Phase 1 reaches nDCG@10 .600 on d: .100 above BM25, .100 below the champion.",
        ),
        ({"bm25": 0.5, "teacher": 1.0}, "BM25 reaches nDCG@10 .500 on d: 50 % of the teacher's."),
        ({"bm25": 0.5}, "BM25 reaches nDCG@10 .500 on d."),
    ],
)
def test_the_headline_holds_whichever_way_it_went(means: dict[str, float], sentence: str) -> None:
    assert headline_sentence(make_summary({"d": means})) == sentence
    render(make_summary({"d": means}))


def test_two_datasets_are_averaged_and_said_so() -> None:
    assert headline_sentence(make_summary(TWO)).startswith("Phase 2 reaches nDCG@10 .940 on average over 2 datasets: ")


def test_nothing_measured_is_a_page_too() -> None:
    html = render(make_summary({}))
    assert "Nothing was measured" in html and "No test queries" in html
    assert Page(html).open == []
