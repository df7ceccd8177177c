"""Summaries as the stage `evaluate` writes them, a decision as `promote` does, and a reader of pages."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

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


RICH_CASE = {
    "query_id": "q<7>", "text": "why <b>so</b> & so?", "values": [0.9, 0.25],
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
    more = [{"query_id": f"m{i}", "text": "<more>", "values": [0.75, 0.5]} for i in range(2)]
    summary["cases"] = [
        {"system": "phase2", "against": "champion", "won": 12, "lost": 1, "level": 5,
         "margins": [(-0.6, -0.4, 1), (-0.4, -0.2, 0), (-0.2, 0.0, 0), (0.0, 0.2, 0), (0.2, 0.4, 10), (0.4, 0.6, 2)],
         "datasets": [{"dataset": "d<i>", "won": 12, "lost": 1, "level": 5, "wins": [RICH_CASE], "losses": [lost],
                       "more_wins": more, "more_losses": []}]}
    ]  # fmt: skip
    for dataset in summary["datasets"].values():
        for system, found in dataset["systems"].items():
            value = found["means"]["nDCG@10"]
            found["cutoffs"] = {"nDCG": {"1": value / 4, "10": value}}
            found["depths"] = {} if system == "bm25" else {"20": value / 2, "100": value}
    summary["base"] = "t5<small>"
    training = {
        "seed": 7, "rates": [[0, 0.0], [100, 0.004], [300, 0.0002]],
        "loss": "mse", "steps": 300, "best_step": 200, "train": [[100, 2.0], [200, 1.0], [300, 0.5]],
        "heldout": [[0, 3.0, 0.1], [200, 1.5, 0.5], [300, 1.75, 0.4]], "sets": {"inns<": 3600},
    }  # fmt: skip
    summary["training"] = {"phase1": training, "phase2": training}
    summary["generation"] = [
        {"dataset": "medicines", "generator": "t5<gen>", "prompt": "document", "tokens_per_second": None,
         "counts": {"queries": 2193, "too_long": 7, "duplicate": 200, "empty": 0, "generated": 2400, "documents": 1200},
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


#: Their texts do not run into what follows.
BLOCKS = (
    *("td", "th", "p", "h1", "h2", "h3", "h4", "li", "strong", "div", "figcaption", "summary"),
    *("dt", "dd", "a", "title"),
)


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
        if tag in BLOCKS:
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def text_of(html: str) -> str:
    return " ".join(Page(html).text.replace("\xa0", " ").split())
