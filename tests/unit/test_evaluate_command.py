"""`inranker evaluate`: what the pipeline's evaluation measures, for any collection and any rerankers."""

from __future__ import annotations

import json

import pytest

from inranker_flow.commands.evaluate import main
from tests import beir
from tests.generation_server import GenerationServer

FAST = ("--set=evaluation.latency_queries=0", "--set=evaluation.measures=[nDCG@10]")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("INRANKER_STORE", "off")


def test_rerankers_are_measured_beside_bm25_and_nothing_else_is_left(tmp_path, capsys):
    few = ("--set=corpus.max_test_queries=20", "--set=retrieval.test_depth=20")
    out = tmp_path / "out"
    assert main(["demo:target/1", "small=demo:student", "large=demo:teacher", f"--out={out}", *FAST, *few]) == 0
    summary = json.loads((out / "evaluation" / "summary.json").read_text())
    assert summary["systems"] == ["bm25", "small", "large"]
    [dataset] = summary["datasets"]
    means = {name: each["means"]["nDCG@10"] for name, each in summary["datasets"][dataset]["systems"].items()}
    assert summary["datasets"][dataset]["queries"] == 20
    # The demo's teacher knows its world, and its student begins below it.
    assert means["bm25"] < means["small"] < means["large"] == 1
    compared = {(each["system"], each["against"]) for each in summary["comparisons"]}
    assert {("small", "bm25"), ("large", "small"), ("large", "bm25")} <= compared
    printed = capsys.readouterr().out
    assert f"{means['small']:.4f}" in printed and str(out / "report.html") in printed
    assert "demo" in (out / "report.html").read_text() and not list((tmp_path / "scratch" / "evaluate").iterdir())
    assert sorted(each.name for each in (out / "evaluation" / "runs").iterdir()) == [
        f"{dataset}.{system}.trec" for system in ("bm25", "large", "small")
    ]


def test_a_judge_has_tables_of_its_own(tmp_path, capsys):
    """A judge that looks at no query puts the systems in an order of its own."""

    def answer(prompt):
        return f"##final score: {sum(map(ord, prompt.partition('Passage: ')[2].partition(chr(10))[0])) % 4}"

    out = tmp_path / "out"
    few = ("--set=corpus.max_test_queries=6", "--set=retrieval.test_depth=20")
    with GenerationServer(answer=answer) as server:
        given = ("checkpoint=writer", "backend=openai", f"endpoint={server.url}", "concurrency=4", "queries=5")
        judge = [f"--set=evaluation.judge.{each}" for each in given]
        assert main(["demo:target/1", "large=demo:teacher", f"--out={out}", *FAST, *few, *judge]) == 0
        told = json.loads((out / "evaluation" / "summary.json").read_text())["judge"]
        assert told["stats"]["calls"] == len(server.generating()) == told["stats"]["graded"]
    [found] = told["datasets"].values()
    assert found["queries"] == 5 and set(found["systems"]) == {"bm25", "large"} and found["agreement"]["tau"] == -1
    printed = capsys.readouterr().out
    assert "nDCG@10 by the judge" in printed and "the judge agrees with people at kappa" in printed


def test_the_evidence_names_the_first_stage(tmp_path):
    documents = [{"_id": f"d{i}", "text": f"passage number {i}"} for i in range(9)]
    run = "".join(f"q{i} Q0 d{(3 * i + j) % 9} {j} {9 - j} other\n" for i in range(4) for j in range(5))
    folder = beir.write(
        tmp_path / "books", {"run.trec": run.encode()}, corpus=beir.jsonl(documents), train=None,
        queries=beir.jsonl([{"_id": f"q{i}", "text": f"number {i}"} for i in range(4)]),
        test=beir.tsv([(f"q{i}", f"d{i}", 1) for i in range(4)]),
    )  # fmt: skip
    out = tmp_path / "out"
    given = ("--set=source.runs=[run.trec]", "--set=retrieval.first_stage=run")
    assert main([str(folder), "small=demo:student", f"--out={out}", *FAST, *given]) == 0
    summary = json.loads((out / "evaluation" / "summary.json").read_text())
    assert summary["systems"] == ["run", "small"] and summary["first_stage"]["name"] == "the run files"
    assert {(each["system"], each["against"]) for each in summary["comparisons"]} == {("small", "run")}
    page = (out / "report.html").read_text()
    assert "Run files" in page and "candidates that the run files finds" not in page and "BM25" not in page
    assert (out / "evaluation" / "runs" / "books.run.trec").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "demo:student"], "nowhere"),
        (["COLLECTION", "demo:nobody"], "no such demo model"),
        (["COLLECTION", "demo:student", "demo:student"], "two systems are called demo-student; give it a name"),
        (["COLLECTION", "bm25=demo:student"], "two systems are called bm25"),
        (["COLLECTION", f"{'x' * 300}=demo:student"], "the name of a system has at most 100 letters"),
        (["COLLECTION", "demo:student", "--set=phase1.seed=3"], "SET: phase1.seed: only settings of source, corpus"),
        (["COLLECTION", "demo:student", "--set=retrieval.depths=3"], "retrieval.depths: unknown key"),
        (["COLLECTION", "demo:student", "--set=source.test_split=dev"], "test_split is 'dev'"),
        (["COLLECTION"], "the following arguments are required: model"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_leaves_nothing(arguments, said, tmp_path, capsys):
    collection = str(beir.write(tmp_path / "books"))
    given = [collection if each == "COLLECTION" else each for each in arguments]
    assert main([*given, f"--out={tmp_path / 'out'}", *FAST]) == 2
    error = capsys.readouterr().err
    assert error.startswith("FAILED: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_collection_without_judged_test_queries_is_refused(tmp_path, capsys):
    collection = beir.write(tmp_path / "books", test=None)
    assert main([str(collection), "demo:student", f"--out={tmp_path / 'out'}", *FAST]) == 2
    assert "has no judged test queries (split test)" in capsys.readouterr().err
