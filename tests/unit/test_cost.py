"""What a model costs: which queries are timed, how, how large its files are, and what the gate makes of it."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.sections import EvaluateConfig, PromoteConfig
from inranker_flow.evaluation import runs, serving_cost
from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.profiles import load
from tests.promoting import evaluation, promote, reasons, student, use_database
from tests.refusals import refuses
from tests.unit.test_evaluation import TEACHER, ByText, World, compare, make_model


def judged_set(dataset: str, sizes: list[int], passages: int = 1) -> JudgedSet:
    """A test set with ``sizes`` candidates of its queries, each document of so many ``passages``."""
    ids = [(f"q{query}", f"d{query}-{doc}") for query, size in enumerate(sizes) for doc in range(size)]
    columns = [pa.chunked_array([pa.array(column, pa.string())]) for column in zip(*ids, strict=True)]
    bm25 = runs.rank(*columns, -np.arange(len(ids), dtype=np.float64))
    order = zip(bm25.column("query_id").to_pylist(), bm25.column("doc_id").to_pylist(), strict=True)
    pairs = [(f"{dataset} {query}", f"{dataset} {doc} part {part}") for query, doc in order for part in range(passages)]
    starts = np.arange(len(ids)) * passages
    return JudgedSet(dataset, {}, bm25, pairs, starts, {}, 0, {})


def test_queries_of_all_test_sets_are_timed_in_turn_with_100_of_their_own_passages() -> None:
    found = serving_cost.requests([judged_set("a", [120] * 9), judged_set("b", [100] * 3)], 4)
    assert [pairs[0][0] for pairs in found.lists] == ["a q0", "a q0", "b q0", "a q2", "b q1"], "the first warms up"
    assert found.filled == 0
    for pairs in found.lists:
        query = pairs[0][0]
        dataset, name = query.split()
        assert len(set(pairs)) == 100 and {each for each, _ in pairs} == {query}
        assert all(passage.startswith(f"{dataset} d{name[1:]}-") for _, passage in pairs)


def test_a_query_with_fewer_candidates_gets_passages_of_others_and_in_a_small_set_the_same_again() -> None:
    found = serving_cost.requests([judged_set("a", [30, 100])], 2)
    assert found.filled == 1
    few = [passage for _, passage in found.lists[1]]
    assert len(few) == len(set(few)) == 100 and sum(each.startswith("a d0-") for each in few) == 30
    small = serving_cost.requests([judged_set("a", [3, 2])], 3)
    assert [len(pairs) for pairs in small.lists] == [100] * 4 and len(set(small.lists[0])) == 5
    assert small.filled == 3, "two queries, so the first is timed twice"


def test_long_documents_are_timed_by_their_passages() -> None:
    [warm, timed] = serving_cost.requests([judged_set("a", [60], passages=2)], 1).lists
    assert warm == timed and len(set(timed)) == 100 and timed[1][1] == "a d0-0 part 1"


def test_nothing_is_timed_where_nobody_asks_or_nothing_is_there() -> None:
    assert serving_cost.requests([judged_set("a", [3])], 0).lists == []
    assert serving_cost.requests([], 20).lists == []
    assert serving_cost.latencies(lambda pairs: None, []) == []


def test_the_warm_up_does_not_count_and_a_slow_model_is_timed_at_least_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0.0, 1000.0, 1.0))
    monkeypatch.setattr(serving_cost.time, "perf_counter", lambda: float(next(now)))
    seen: list[int] = []
    lists = [[("q", str(n))] for n in range(4)]
    # A look at the clock is a second: 1 s for each call, 3 s for a round.
    assert serving_cost.latencies(lambda pairs: seen.append(int(pairs[0][1])), lists) == [1000.0] * 3
    assert seen == [0, 1, 2, 3]
    monkeypatch.setattr(serving_cost, "SECONDS", 4.0)
    assert len(serving_cost.latencies(lambda pairs: None, lists)) == 1
    monkeypatch.setattr(serving_cost, "SECONDS", 1.0)
    assert serving_cost.latencies(lambda pairs: None, lists) == [1000.0], "the warm-up alone, where nothing else fits"


def test_the_size_is_that_of_what_serving_reads(tmp_path: Path) -> None:
    for name, size in (
        ("model.safetensors", 3_000_000), ("pytorch_model.bin", 9_000_000), ("config.json", 1000),
        ("spiece.model", 500_000), ("training.json", 70_000), ("optimizer.pt", 800_000),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"0" * size)
    assert serving_cost.size_mb(str(tmp_path)) == pytest.approx(3.501)
    (tmp_path / "model.safetensors").unlink()
    assert serving_cost.size_mb(str(tmp_path)) == pytest.approx(9.501)
    assert serving_cost.size_mb("init:tiny") is None


def test_the_size_of_a_model_of_the_hub_is_that_of_its_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert serving_cost.size_mb("owner/model") is None
    snapshot = tmp_path / "models--owner--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"0" * 2_000_000)
    assert serving_cost.size_mb("owner/model") == pytest.approx(2.000002)


def test_a_switched_off_latency_is_said_and_not_invented(world: World) -> None:
    world.evaluate(EvaluateConfig(latency_queries=0))
    for model in world.summary()["models"].values():
        assert model["latency_median_ms"] is None and model["latency_p95_ms"] is None and model["latency_queries"] == 0
    page = (world.tmp / "out" / "report.html").read_text()
    assert "Latency was not measured" in page


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    return World(tmp_path)


@pytest.mark.parametrize(
    ("budget", "measured", "verdict", "code"),
    [
        ({"latency_budget_ms": 29.0}, {}, "REJECT", "latency_budget"),
        ({"size_budget_mb": 3.0}, {}, "REJECT", "size_budget"),
        ({"latency_budget_ms": 31.0, "size_budget_mb": 5.0}, {}, "PROMOTE", "gain"),
        (
            {"latency_budget_ms": 31.0},
            {"latency_p95_ms": None, "latency_median_ms": None},
            "HOLD",
            "latency_not_measured",
        ),
        ({"size_budget_mb": 5.0}, {"size_mb": None}, "HOLD", "size_not_measured"),
    ],
)
def test_promotion_keeps_to_the_budgets(tmp_path, monkeypatch, budget, measured, verdict, code) -> None:
    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        monkeypatch.setenv(name, "")
    use_database(tmp_path)
    folder = evaluation(tmp_path / "e", bm25=0.2, phase2=0.6)
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["models"]["phase2"] |= measured
    path.write_text(json.dumps(summary))
    write_manifest(folder, dataset="medicines", stage="evaluate")
    policy = PromoteConfig(model_name="m", **budget)
    assert promote("m", student(tmp_path / "s", 1), folder, policy=policy).verdict == verdict
    assert reasons(folder)[0]["code"] == code
    page = folder.with_name("e.html").read_text()
    assert f"<strong>{verdict}</strong>" in page and reasons(folder)[0]["message"][4:] in unescape(page)


def test_a_latency_budget_without_a_latency_is_refused_before_anything_runs() -> None:
    with refuses("setting-conflict", "promotion.latency_budget_ms", "evaluation.latency_queries"):
        load("demo", {"promotion.latency_budget_ms": 10, "evaluation.latency_queries": 0})


def test_an_evaluation_without_test_queries_has_no_cost(tmp_path: Path) -> None:
    students = {"phase2": make_model(tmp_path / "m", "m")}
    compare(EvaluateConfig(teacher=False), TEACHER, [], [], [], students, "", tmp_path / "e", tmp_path / "r.html",
            load=lambda *_: ByText({}))  # fmt: skip
    model = json.loads((tmp_path / "e" / "summary.json").read_text())["models"]["phase2"]
    assert model["latency_p95_ms"] is None and model["pairs_per_second"] == 0.0
