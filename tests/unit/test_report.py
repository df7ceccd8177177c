"""The report and its chart: right numbers, well-formed, self-contained, and safe with names that hold markup."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

from inranker_flow.planning.reality import Compared, with_earlier
from inranker_flow.report.chart import chart_svg
from inranker_flow.report.page import headline_sentence, render
from tests.summaries import DECISION, RISING, TWO, Page, make_summary, rich_summary, text_of

SVG = "{http://www.w3.org/2000/svg}"


def fetches_nothing(page: Page) -> None:
    """What a person clicks is all that leads anywhere: a place of the page, its own CSV, the run's records."""
    assert not [name for name, _ in page.attributes if name in ("src", "srcset") or name.startswith("on")]
    ids = {value for name, value in page.attributes if name == "id"}
    for address in (value or "" for name, value in page.attributes if name == "href"):
        assert address.removeprefix("#") in ids or address.startswith("data:text/csv;charset=utf-8,"), address


def test_the_page_is_well_formed_and_fetches_nothing() -> None:
    html = render(make_summary(TWO))
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    fetches_nothing(page)
    assert "@import" not in html and "url(" not in html
    assert set(re.findall(r"https?://[^\s\"<]+", html)) == {"http://www.w3.org/2000/svg"}  # a namespace, not a fetch


def test_the_page_holds_the_numbers() -> None:
    text = text_of(render(make_summary(TWO, p=1e-5)))
    assert headline_sentence(make_summary(TWO)).replace("\xa0", " ") in text
    for expected in (
        "Not measured: marco, no judged test queries",
            "demo-target nDCG@10 0.2200 0.2000–0.2400 0.5000 ▲ 0.4800–0.5200 0.9600 ▲ 0.9400–0.9800 0.9980 0.9780–1.0000 0.9900",
        "Phase 2 against Teacher demo-target −0.0380 ▼ −0.0480 to +0.5000 < 0.001 0.25 9 1 1,234",
            "Mean nDCG@10 0.3100 0.1000–0.9000 0.7000 0.1000–0.9000",
        "12.5 %", "87.5 %", "60,000,000", "d1d1d1d1d1d1", "collection c0c0c0c0c0c0", "3.3 min", "Code 0.1.0-abc",
        "20.0×", '"checkpoint": "big"',
    ):  # fmt: skip
        assert expected in text, expected


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
        (
            RISING,
            "Phase 2 reaches nDCG@10 0.9600 on d: 0.7400 above BM25 and 0.4600 above Phase 1, 96 % of the teacher's.",
        ),
        (
            {"bm25": 0.5, "phase1": 0.4, "phase2": 0.4},
            "Phase 2 reaches nDCG@10 0.4000 on d: 0.1000 below BM25 and level with Phase 1.",
        ),
        (
            {"bm25": 0.5, "phase1": 0.6, "champion": 0.7},
            "Phase 1 reaches nDCG@10 0.6000 on d: 0.1000 above BM25, 0.1000 below the champion.",
        ),
        ({"bm25": 0.5, "teacher": 1.0}, "BM25 reaches nDCG@10 0.5000 on d: 50 % of the teacher's."),
        ({"bm25": 0.5}, "BM25 reaches nDCG@10 0.5000 on d."),
    ],
)
def test_the_headline_holds_whichever_way_it_went(means: dict[str, float], sentence: str) -> None:
    assert headline_sentence(make_summary({"d": means})).replace("\xa0", " ") == sentence
    render(make_summary({"d": means}))


def test_two_datasets_are_averaged_and_said_so() -> None:
    assert headline_sentence(make_summary(TWO)).startswith(
        "Phase 2 reaches nDCG@10 0.9400 on average over 2 datasets: "
    )


def test_a_dataset_whose_documents_were_cut_says_that_documents_are_counted() -> None:
    summary = make_summary({"d": {"bm25": 0.5, "phase2": 0.6}})
    assert "documents are counted" not in text_of(render(summary))
    summary["datasets"]["d"]["by"] = "document"
    assert "d: documents are counted" in text_of(render(summary))


def test_nothing_measured_is_a_page_too() -> None:
    html = render(make_summary({}))
    assert "Nothing was measured" in html and "No test queries" in html
    assert Page(html).open == []


def body_of(html: str) -> str:
    return html.partition("<body>")[2].partition("</body>")[0]


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
        f"InRanker Flow · evaluation Evaluation on d<i>, e seed 7 {verdict} Mean nDCG@10 gain is <tiny>. {follows} "
        "12 test queries on e prove nothing"
    )
    assert f'class="verdict {verdict}"' in html and '"alpha": 0.05' in text_of(html)


def test_without_a_decision_the_page_says_that_it_follows() -> None:
    body = text_of(body_of(render(rich_summary())))
    assert body.startswith(
        "InRanker Flow · evaluation Evaluation on d<i>, e seed 7 No verdict yet This page is the evidence."
    )
    assert not {"PROMOTE", "HOLD", "REJECT"} & set(body.split())


def test_every_section_is_there() -> None:
    text = text_of(render(rich_summary(), DECISION))
    for heading in (
        "Quality against cost", "What each step brings", "All measures", "Phase 2 against Champion, query by query",
        "At other cut-offs", "How deep to rerank", "Largest wins", "Largest losses", "Training",
        "Synthetic queries", "Leak check", "Data", "Configuration",
    ):  # fmt: skip
        assert f" {heading} " in text, heading
    for expected in (
        "Not measured: Champion. its <weights> are damaged",
        "over 20 test queries after a warm-up. 4 of them have fewer than 100 candidates",
        "Teacher: 3 only, because a minute was over", "Measured on a processor.",
        "Phase 2 0.9600 60,000,000 242.0 MB 250 ms 333 ms 10", "5,000 ms 12.3 s",
        "12 won, 1 lost, 5 level", "+0.6500 why <b>so</b> & so? q<7> · 0.9000 against 0.2500",
        "The largest 3 of 12", "+0.2500 <more> m0 · 0.7500 against 0.5000",
        "the mean over the datasets. nDCG @1 @10 BM25 nDCG 0.0550 0.2200", "e nDCG @1 @10 BM25",
        "System 20 candidates 100 candidates Phase 1 0.2500 0.5000 Phase 2 0.4800 0.9600",
        "1 relevant, 2 p<1> rank 17 of Champion <script>alert(1)</script> the answer",
        "1 not judged p2 rank 9 of Phase 2 beside the point", "not relevant",
        "The best of the candidates, p9 (relevant), is at rank 40 of Phase 2 and 12 of Champion: nobody found me",
        "Phase 1 mse, 300 steps on inns< (3,600 pairs)", "queries that t5<gen> wrote",
        "medicines 1,200 2,400 200 duplicate, 7 too long 2,193 91.4 % laws – – (passed through: 55) – –",
        "what <for> a <document>",
    ):  # fmt: skip
        assert expected in text, expected


def test_the_full_page_is_well_formed_fetches_nothing_and_escapes_texts() -> None:
    for html in (render(rich_summary(), DECISION), render(rich_summary())):
        page = Page(html)
        assert page.open == []
        assert not {"script", "link", "img", "iframe", "object", "form", "b<"} & set(page.tags)
        fetches_nothing(page)
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
        "Stage Planned Real Ratio teacher label pairs 13,600 12,660 0.93× hours 20.00 3.00 75.0 % reused 0.60× "
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


def test_what_a_run_found_done_in_full_has_the_amounts_of_the_run_that_computed_it() -> None:
    rows: Any = REALITY["rows"]
    earlier = [
        Compared("distill_phase1", "hours", 1.4, 1.25, 0.0, 0.9),
        Compared("teacher_label", "hours", 9.0, 9.0, 0.0, 1.0),
    ]
    text = text_of(render(rich_summary(), DECISION, {**REALITY, "rows": with_earlier(rows, earlier)}))
    assert "teacher label pairs 13,600 12,660 0.93× hours 20.00 3.00 75.0 % reused 0.60×" in text
    assert "distill phase1 hours 1.50 1.25 reused –" in text and "the numbers of the run that did it" in text


ORIGIN = {
    "name": "inranker-demo-1", "date": "2026-11-29 21:52 UTC", "run": "0123456789ab", "kfp": "http://kubeflow/#/runs/details/1",
    "settings": {"label": "inranker-demo", "source": {"uri": "<here>"}}, "mlflow": "", "version": "javascript:alert(1)",
}  # fmt: skip


def test_the_header_says_which_run_this_is_from_what_to_what_and_where_its_records_are() -> None:
    queries = "dataset,query_id,query\nd,q1,why?\n"
    html = render(rich_summary(), DECISION, origin=ORIGIN, queries=queries)
    page, text = Page(html), text_of(html)
    assert "<title>HOLD search 7 · inranker-demo-1 · InRanker Flow</title>" in html
    for expected in (
        "inranker-demo-1 2026-11-29 21:52 UTC · profile demo · seed 7 HOLD",
        "Teacher /runs/7/teacher (60,000,000 parameters) Student t5<small> (60,000,000 parameters)",
        "Datasets d<i> (1,234 test queries)e (1,234 test queries)",
        "Records MLflow run 01234567search version 7Kubeflow run", '"uri": "<here>"',
    ):  # fmt: skip
        assert expected in text, expected
    addresses = [value for name, value in page.attributes if name == "href" and not (value or "").startswith("#")]
    assert addresses == [
        "http://kubeflow/#/runs/details/1",
        f"data:text/csv;charset=utf-8,{quote(queries, safe=' ,:/?=')}",
    ]
    contents = [value for name, value in page.attributes if name == "href" and (value or "").startswith("#")]
    assert len(contents) == len(set(contents)) == html.count("<h2 ") + 1, "every section, and the configuration"
    assert "data:text/csv" not in render(rich_summary(), queries="x" * 300_000), "a page stays small"


def test_on_a_phone_every_number_of_a_row_has_its_name() -> None:
    """A row becomes a block there, without the table's head."""
    html = render(rich_summary(), DECISION, REALITY)
    cells = re.findall(r"<td([^>]*)>(.*?)</td>", html, re.DOTALL)
    unnamed = [(kind, content) for kind, content in cells if "data-label" not in kind and content.strip()]
    assert cells and all(re.search(r"class=\"[^\"]*\b(whole|text|ref)\b", kind) for kind, _ in unnamed), unnamed[:3]


def test_a_page_without_training_generation_or_latency_says_so() -> None:
    summary = make_summary(TWO)
    summary["latency"] = {"passages": 100, "queries": 0, "filled": 0}
    for model in summary["models"].values():
        model |= {"latency_median_ms": None, "latency_p95_ms": None, "latency_queries": 0, "size_mb": None}
    text = text_of(render(summary))
    assert "The students' folders hold no record of a training." in text
    assert "No synthetic queries were handed to this evaluation." in text
    assert "Latency was not measured (evaluation.latency_queries: 0)." in text
    assert "Phase 2 0.9400 60,000,000 – – – 10" in text and "20.0×" in text
    assert "median latency of reranking" not in text


def test_what_pairs_a_second_rest_on_is_said_and_other_numbers_of_processes_are_not_compared() -> None:
    summary = make_summary(TWO)
    for model in summary["models"].values():
        model |= {"latency_median_ms": None, "latency_p95_ms": None, "timed_pairs": 90_000, "processes": 4}
    summary["models"]["teacher"] |= {"timed_pairs": 512, "processes": 1, "sampled": True}
    text = text_of(render(summary))
    assert "Phase 2 90,000 pairs in 10.0 s with 4 processes; Teacher 512 pairs in 3.3 min, a sample" in text
    assert "speed of the teacher" not in text
