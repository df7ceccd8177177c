"""The report and its chart: right numbers, well-formed, self-contained, and safe with names that hold markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import combinations, pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inranker_flow.planning.reality import Compared
from inranker_flow.report.chart import chart_svg
from inranker_flow.report.page import headline_sentence, render
from inranker_flow.report.plots import cost_svg, curve_svg, differences_svg

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
    intervals = {
        s: {**{name: [max(means[s] - 0.02, 0), min(means[s] + 0.02, 1)] for name, means in datasets.items()},
            "": [0.1, 0.9] if len(datasets) > 1 else None}
        for s in systems
    }  # fmt: skip
    steps = [*zip(["bm25", *students], students, strict=False)]
    steps += [("bm25", student) for student in students[1:][-1:]]
    steps += [(other, students[-1]) for other in ("teacher", "champion") if students and other in systems]
    return {
        "headline": "nDCG@10", "measures": MEASURES, "systems": systems, "students": students,
        "models": {
            s: {"reference": f"/runs/7/{s}", "revision": "", "digest": "d1" * 32, "parameters": parameters,
                "size_mb": 242.0, "seconds": 200.0 if s == "teacher" else 10.0,
                "pairs_per_second": 0.5 if s == "teacher" else 10.0,
                "latency_median_ms": 5000.0 if s == "teacher" else 250.0, "latency_queries": 3 if s == "teacher" else 20,
                "latency_p95_ms": 12_345.0 if s == "teacher" else 333.0, "device": "a processor", "same_as": ""}
            for s in systems if s != "bm25"
        },
        "latency": {"passages": 100, "queries": 20, "filled": 4},
        "intervals": intervals, "unmeasured": {}, "cases": [], "training": {}, "generation": [], "families": {},
        "licences": {"base": "", "teacher": "", "data": {}},
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
        if tag in ("td", "th", "p", "h1", "h2", "h3", "h4", "li", "strong", "div", "figcaption", "summary"):
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
        "Not measured: marco, no judged test queries",
            "demo-target nDCG@10 .220 .200–.240 .500 ▲ .480–.520 .960 ▲ .940–.980 .998 .978–1.000 .990",
        "Phase 2 against Teacher demo-target −.038 ▼ −.048 to +.500 < .001 0.25 9 1 1,234",
            "Mean nDCG@10 .310 .100–.900 .700 .100–.900",
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


def test_a_dataset_whose_documents_were_cut_says_that_documents_are_counted() -> None:
    summary = make_summary({"d": {"bm25": 0.5, "phase2": 0.6}})
    assert "documents are counted" not in text_of(render(summary))
    summary["datasets"]["d"]["by"] = "document"
    assert "d: documents are counted" in text_of(render(summary))


def test_nothing_measured_is_a_page_too() -> None:
    html = render(make_summary({}))
    assert "Nothing was measured" in html and "No test queries" in html
    assert Page(html).open == []


RICH_CASE = {
    "dataset": "d<i>", "query_id": "q<7>", "text": "why <b>so</b> & so?", "values": [0.9, 0.25],
    "top": [
        [{"doc_id": "p<1>", "grade": 2, "ranks": [1, 17], "text": "<script>alert(1)</script> the answer"}],
        [{"doc_id": "p2", "grade": None, "ranks": [9, 1], "text": "beside the point"}],
    ],
    "relevant": None,
}  # fmt: skip


def rich_summary() -> dict[str, Any]:
    """Everything that a page can hold."""
    summary = make_summary({"d<i>": {**RISING, "champion": 0.9}, "e": {**RISING, "champion": 0.8}})
    lost = {**RICH_CASE, "query_id": "q8", "text": "lost one", "values": [0.0, 0.5], "relevant": {
        "doc_id": "p9", "grade": 1, "ranks": [40, 12], "text": "nobody found me"}}  # fmt: skip
    passages = [{**each, "grade": 0} for each in RICH_CASE["top"][0]]  # type: ignore[index]
    lost["top"] = [passages, RICH_CASE["top"][1]]  # type: ignore[index]
    summary["cases"] = [
        {"system": "phase2", "against": "champion", "won": 12, "lost": 3, "level": 5, "wins": [RICH_CASE],
         "losses": [lost], "curve": [-0.5, 0.0, 0.0, 0.65]}
    ]  # fmt: skip
    training = {
        "loss": "mse", "steps": 300, "best_step": 200, "train": [[100, 2.0], [200, 1.0], [300, 0.5]],
        "heldout": [[0, 3.0, 0.1], [200, 1.5, 0.5], [300, 1.75, 0.4]], "sets": {"inns<": 3600},
    }  # fmt: skip
    summary["training"] = {"phase1": training, "phase2": training}
    summary["generation"] = [
        {"dataset": "medicines", "generator": "t5<gen>", "prompt": "document", "tokens_per_second": None,
         "counts": {"kept": 2193, "too_similar": 7, "generated": 2400, "documents": 1200},
         "samples": [{"query": "what <for>", "doc_id": "m1", "document": "a <document>"}]},
        {"dataset": "laws", "generator": "t5<gen>", "prompt": "document", "counts": {"passed_through": 55}, "samples": [],
         "tokens_per_second": None},
    ]  # fmt: skip
    summary["unmeasured"] = {"champion": "its <weights> are damaged"}
    return summary


DECISION = {
    "model": "search", "version": "7", "champion": "models:/search/6", "verdict": "HOLD", "against": "champion",
    "reasons": [
        {"code": "no_gain", "dataset": "", "message": "mean nDCG@10 gain is <tiny>", "numbers": {"gain": 0.0}},
        {"code": "few_queries", "dataset": "e", "message": "12 test queries on e prove nothing", "numbers": {}},
    ],
    "policy": {"alpha": 0.05, "model_name": "search"},
}  # fmt: skip


def body_of(html: str) -> str:
    return html.partition("<body>")[2].partition("</body>")[0]


def text_of(html: str) -> str:
    return " ".join(Page(html).text.replace("\xa0", " ").split())


@pytest.mark.parametrize(
    ("verdict", "champion", "follows"),
    [
        ("PROMOTE", "models:/search/6", "search version 7 serves now, instead of models:/search/6."),
        ("PROMOTE", "", "search version 7 serves now, as the first."),
        ("HOLD", "models:/search/6", "search version 7 is registered as challenger; models:/search/6 goes on serving."),
        ("REJECT", "", "search version 7 is registered as challenger; nothing serves yet."),
    ],
)
def test_the_verdict_comes_first_with_its_reasons_and_what_follows(verdict: str, champion: str, follows: str) -> None:
    html = render(rich_summary(), {**DECISION, "verdict": verdict, "champion": champion})
    body = text_of(body_of(html))
    assert body.startswith(
        f"InRanker Flow · evaluation {verdict} Mean nDCG@10 gain is <tiny>. {follows} 12 test queries on e prove nothing"
    )
    assert f'class="verdict {verdict}"' in html and '"alpha": 0.05' in text_of(html)


def test_without_a_decision_the_page_says_that_it_follows() -> None:
    body = text_of(body_of(render(rich_summary())))
    assert body.startswith("InRanker Flow · evaluation No verdict yet This page is the evidence.")
    assert not {"PROMOTE", "HOLD", "REJECT"} & set(body.split())


def test_every_section_is_there() -> None:
    text = text_of(render(rich_summary(), DECISION))
    for heading in (
        "Quality against cost", "What each step brings", "All measures", "Phase 2 against Champion, query by query",
        "Largest wins", "Largest losses", "Training", "Synthetic queries", "Leak check", "Data", "Configuration",
    ):  # fmt: skip
        assert f" {heading} " in text, heading
    for expected in (
        "Not measured: Champion. its <weights> are damaged",
        "over 20 test queries after a warm-up. 4 of them have fewer than 100 candidates",
        "Teacher: 3 only, because a minute was over", "Measured on a processor.",
        "Phase 2 .960 60,000,000 242.0 MB 250 ms 333 ms 10", "5,000 ms 12.3 s",
        "12 won, 3 lost, 5 level", "+.650 why <b>so</b> & so? d<i> · q<7> · .900 against .250",
        "1 relevant, 2 p<1> rank 17 of Champion <script>alert(1)</script> the answer",
        "1 not judged p2 rank 9 of Phase 2 beside the point", "not relevant",
        "The best of the candidates, p9 (relevant), is at rank 40 of Phase 2 and 12 of Champion: nobody found me",
        "Phase 1 mse, 300 steps on inns< (3,600 pairs)", "queries that t5<gen> wrote",
        "Dataset documents generated too similar passed through kept medicines 1,200 2,400 7 – 2,193 laws – – – 55 –",
        "what <for> a <document>",
    ):  # fmt: skip
        assert expected in text, expected


def test_the_full_page_is_well_formed_fetches_nothing_and_escapes_texts() -> None:
    for html in (render(rich_summary(), DECISION), render(rich_summary())):
        page = Page(html)
        assert page.open == []
        assert not {"script", "link", "img", "iframe", "object", "form", "b<"} & set(page.tags)
        assert not [name for name, _ in page.attributes if name in ("src", "href", "srcset") or name.startswith("on")]
        assert "@import" not in html and "url(" not in html
        assert set(re.findall(r"https?://[^\s\"<]+", html)) == {"http://www.w3.org/2000/svg"}


#: Computed, in part and in full, reused, and not known before.
REALITY = {
    "device": "H<100>", "without": ["laws<"],
    "rows": [
        Compared("teacher_label", "pairs", 13_600.0, 12_660.0, 0.0, 12_660 / 13_600),
        Compared("teacher_label", "hours", 20.0, 3.0, 0.75, 0.6),
        Compared("distill_phase1", "hours", 1.5, 0.0, 1.0, None),
        Compared("distill_phase2", "hours", None, 0.0123, 0.0, None),
        Compared("total", "hours", 21.5, 3.0123, None, None),
        Compared("total", "stored", 1.5e9, 1.2e6, 0.0, 0.0008),
    ],
}  # fmt: skip


def test_plan_and_reality_stand_side_by_side_and_what_was_reused_is_no_miss() -> None:
    html = render(rich_summary(), DECISION, REALITY)
    text = text_of(html)
    for expected in (
        "Plan and reality Planned before the run for H<100>, as if nothing were there to be reused",
        "Planned, but no part of this run: laws<.",
        "Stage Planned Real Ratio teacher label pairs 13,600 12,660 0.93× hours 20.00 3.00 75.0% reused 0.60× "
        "distill phase1 hours 1.50 reused – distill phase2 hours not known 0.0123 – "
        "total hours 21.50 3.01 a part reused – stored 1,500.0 MB 1.20 MB 0.00×",
        "Hours: no speed was known when the run began; make plan can measure it. Planned, but no part",
        "Not compared: what the store below them keeps for later runs, attempts that failed, and promote itself, which has not",
    ):
        assert expected in text, expected
    assert Page(html).open == [] and text.index("Plan and reality") > text.index(" Data ")
    assert "Plan and reality" not in render(rich_summary(), DECISION), "nothing was planned"
    here = text_of(render(rich_summary(), DECISION, {"rows": REALITY["rows"][:1], "device": "here", "without": []}))
    assert "for here" not in here and "make plan" not in here


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


def test_a_page_without_training_generation_or_latency_says_so() -> None:
    summary = make_summary(TWO)
    summary["latency"] = {"passages": 100, "queries": 0, "filled": 0}
    for model in summary["models"].values():
        model |= {"latency_median_ms": None, "latency_p95_ms": None, "latency_queries": 0, "size_mb": None}
    text = text_of(render(summary))
    assert "The students' folders hold no record of a training." in text
    assert "No synthetic queries were handed to this evaluation." in text
    assert "Latency was not measured (evaluation.latency_queries: 0)." in text
    assert "Phase 2 .940 60,000,000 – – – 10" in text and "20.0×" in text
    assert cost_svg(summary) == ""


def test_what_pairs_a_second_rest_on_is_said_and_other_numbers_of_processes_are_not_compared() -> None:
    summary = make_summary(TWO)
    for model in summary["models"].values():
        model |= {"latency_median_ms": None, "latency_p95_ms": None, "timed_pairs": 90_000, "processes": 4}
    summary["models"]["teacher"] |= {"timed_pairs": 512, "processes": 1, "sampled": True}
    text = text_of(render(summary))
    assert "Phase 2 90,000 pairs in 10.0 s with 4 processes; Teacher 512 pairs in 3.3 min, a sample" in text
    assert "speed of the teacher" not in text


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


def test_the_curve_of_wins_and_losses_has_a_bar_for_each_point() -> None:
    case = rich_summary()["cases"][0]
    svg = ElementTree.fromstring(differences_svg(case, ["bm25", "phase2", "champion"]))
    drawn = [
        (rect.get("class"), float(rect.get("height", 0)))
        for rect in svg.iter(f"{SVG}rect")
        if rect.get("class") != "ground"
    ]
    heights = [height for _, height in drawn]
    assert [kind for kind, _ in drawn] == ["won", "lost", "lost", "lost"] and heights[1:3] == [0.0, 0.0]
    assert heights[3] / heights[0] == pytest.approx(0.5 / 0.65, abs=0.01)
    assert "12 won, 3 lost, 5 level" in svg.get("aria-label", "")


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
