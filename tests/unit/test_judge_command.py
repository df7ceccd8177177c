"""`inranker judge`: two runs, or two models, compared by a judge's grades."""

from __future__ import annotations

import json
import re
import runpy
import sys

import pytest

from inranker_flow.commands.judge import main
from inranker_flow.environment import variables
from tests import beir
from tests.generation_server import GenerationServer, prompt_of

COLOURS = ("red", "blue", "green", "grey")
DOCUMENTS = {f"d{n}": f"a vase number {n} in {COLOURS[n % 4]} and nothing else" for n in range(40)}
QUERIES = {f"q{n}": f"vase in {COLOURS[n % 4]}" for n in range(12)}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv(variables.SCRATCH, str(tmp_path / "scratch"))
    monkeypatch.setenv(variables.STORE, str(tmp_path / "store"))
    monkeypatch.delenv(variables.ENDPOINT_KEY, raising=False)
    beir.write(
        tmp_path / "vases", {}, corpus=beir.jsonl([{"_id": key, "text": text} for key, text in DOCUMENTS.items()]),
        queries=None, train=None, test=None,
    )  # fmt: skip
    (tmp_path / "asked.tsv").write_text("".join(f"{key}\t{text}\n" for key, text in QUERIES.items()))


def answer(prompt):
    """A vase of the colour answers; the first ones do so best."""
    found = re.search(r"Query: vase in (\w+)\nPassage: a vase number (\d+) in (\w+)", prompt)
    return f"##final score: {(3 if int(found[2]) < 20 else 2) if found[1] == found[3] else 0}" if found else "0"


def run_of(path, right):
    """A run whose first ``right`` of five passages have the colour."""
    rows = []
    for number, query in enumerate(QUERIES):
        good = [doc for doc in DOCUMENTS if int(doc[1:]) % 4 == number % 4]
        bad = [doc for doc in DOCUMENTS if doc not in good]
        ranked = (good[:right] + bad)[:5]
        rows += [f"{query} Q0 {doc} {place} {9 - place} any\n" for place, doc in enumerate(ranked, 1)]
    path.write_text("".join(rows))
    return str(path)


def options(tmp_path, server, *more):
    return [
        f"--queries={tmp_path / 'asked.tsv'}", f"--corpus={tmp_path / 'vases'}", "--judge=writer",
        "--set=evaluation.judge.backend=openai", f"--set=evaluation.judge.endpoint={server.url}",
        "--set=evaluation.judge.concurrency=4", *more,
    ]  # fmt: skip


def test_the_better_of_two_runs_is_named_and_nothing_is_paid_for_twice(tmp_path, capsys):
    weak, strong = run_of(tmp_path / "weak.trec", 1), run_of(tmp_path / "strong.trec", 4)
    with GenerationServer(answer=answer) as server:
        qrels = f"--qrels={tmp_path / 'out' / 'qrels.txt'}"
        assert main([weak, strong, *options(tmp_path, server, qrels)]) == 0
        asked = len(server.generating())
        printed = capsys.readouterr().out
        assert main([strong, weak, *options(tmp_path, server)]) == 0
        assert len(server.generating()) == asked == len({prompt_of(each) for each in server.generating()})
        again = capsys.readouterr().out
        assert main([strong, strong, *options(tmp_path, server)]) == 0
    assert re.search(r"strong\.trec is better: nDCG@10 of strong\.trec less that of weak\.trec is \+0\.\d+", printed)
    assert "12 queries, 12 better, 0 worse" in printed and "RR@10" in printed and "R@100" not in printed
    assert f"{asked} calls" in printed and "0 of 1" in printed and "no person's" in printed
    assert re.search(r"strong\.trec is better: nDCG@10 of weak\.trec less that of strong\.trec is -0", again)
    assert "0 calls" in again and f"{asked} answers were in the store" in again
    assert "No difference is shown: nDCG@10 of strong.trec (B) less" in capsys.readouterr().out
    rows = [line.split() for line in (tmp_path / "out" / "qrels.txt").read_text().splitlines()]
    assert ["q0", "0", "d0", "3"] in rows and len(rows) == 12 * 8


def test_two_models_rerank_what_the_first_stage_finds(tmp_path, capsys):
    (tmp_path / "asked.txt").write_text("vase in red\nvase in blue\nvase in green\n")
    few = (f"--queries={tmp_path / 'asked.txt'}", "--set=retrieval.test_depth=20", "--set=evaluation.judge.depth=10")
    with GenerationServer(answer=answer) as server:
        assert main(["small=demo:student", "demo:teacher", *options(tmp_path, server, *few)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"nDCG@10 +small +demo:teacher\n", printed) and "3 queries" in printed
    assert not list((tmp_path / "scratch").glob("*judge-command*")), "nothing is left of the corpus"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.trec"], "nowhere.trec"),
        (["strong.trec", "--queries=none.tsv"], "none.tsv: no such file"),
        (["strong.trec", "--queries=vases"], "QUERIES: vases: no file; give .jsonl, .tsv or .txt"),
        (["strong.trec", "--queries=strong.trec"], "ranks nothing for any of the 60 queries"),
        (["strong.trec", "--queries=two.jsonl"], "two.jsonl line 1"),
        (["strong.trec", "--queries=empty.txt"], "holds no query"),
        (["strong.trec", "--set=evaluation.judge.depth=5"], "evaluation.judge.depth: 5 passages"),
        (
            ["strong.trec", "--set=evaluation.judge.prompt=nothing"],
            "evaluation.judge.prompt: nothing: no readable template",
        ),
        (["strong.trec", "--set=evaluation.judge.temperature=1"], "evaluation.judge.temperature: unknown key"),
        (["other.trec"], "lacks 1 of the"),
        (["broken.trec"], "broken.trec line 2: 3 columns where a run has six"),
        (["twice.trec"], "twice.trec line 2: query 'q0' found document 'd1' before"),
        (["demo:nobody"], "no such demo model"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    run_of(tmp_path / "strong.trec", 4)
    (tmp_path / "two.jsonl").write_text(json.dumps({"text": "no id"}))
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "other.trec").write_text("q0 Q0 gone 1 2.0 x\n")
    (tmp_path / "broken.trec").write_text("q0 Q0 d1 1 2.0 x\nq0 d1 3\n")
    (tmp_path / "twice.trec").write_text("q0 Q0 d1 1 2.0 x\nq0 Q0 d1 2 1.0 x\n")
    with GenerationServer(answer=answer) as server:
        status = main(["strong.trec", arguments[0], *options(tmp_path, server), *arguments[1:]])
        assert not server.generating()
    failed = capsys.readouterr().err.strip().splitlines()
    assert status == 2 and failed[-1].startswith("FAILED: ") and said in failed[-1], failed


def test_a_judge_that_is_unreachable_says_so_and_the_command_goes_on_later(tmp_path, capsys):
    runs = run_of(tmp_path / "weak.trec", 1), run_of(tmp_path / "strong.trec", 4)
    with GenerationServer(answer=answer, trouble=lambda number: 503) as server:
        assert main([*runs, *options(tmp_path, server, "--set=evaluation.judge.retries=0")]) == 2
        assert "HTTP 503" in capsys.readouterr().err
        server.trouble = lambda number: None
        assert main([*runs, *options(tmp_path, server)]) == 0


def test_it_is_a_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["inranker", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module("inranker_flow", run_name="__main__")
    assert "judge" in capsys.readouterr().out
