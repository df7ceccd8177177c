"""What is said about a first stage before a run: by its settings, when they are pinned, by preflight and by the plan."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from inranker_flow import profiles
from inranker_flow.config.retrieval import DenseConfig, RetrieveConfig, SearchServerConfig
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.errors import UserError
from inranker_flow.planning.planner import make_plan
from inranker_flow.preflight.checks import Skipped
from inranker_flow.preflight.first_stage import check_first_stage
from inranker_flow.preflight.pool import Need
from inranker_flow.settings import checks
from inranker_flow.settings.pin import pin
from inranker_flow.settings.profile import Profile
from tests import beir, bi_encoders
from tests.http_server import Answer
from tests.planning import by_size_alone
from tests.refusals import refuses
from tests.search_server import SearchServer

NEED = Need("retrieve", "4", "32Gi", "")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return bi_encoders.make(tmp_path_factory.mktemp("encoders") / "model", "mean")


def loaded(**settings: Any) -> Profile:
    return profiles.load("demo", {f"retrieval.{name.replace('__', '.')}": value for name, value in settings.items()})


def test_settings_that_no_first_stage_can_work_with(encoder, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text('{"model_type": "bert"}')
    server = {"server__endpoint": "http://h:9200", "server__index": "handbook"}
    for code, fact, settings in (
        ("setting-value", "retrieval.first_stage", {"first_stage": "splade"}),
        ("setting-missing", "retrieval.dense.checkpoint", {"first_stage": "dense"}),
        ("checkpoint-pooling", "retrieval.dense.checkpoint",
         {"first_stage": "hybrid", "dense__checkpoint": str(tmp_path / "plain")}),
        ("setting-missing", "source.runs", {"first_stage": "run"}),
        ("setting-missing", "retrieval.server.endpoint", {"first_stage": "opensearch"}),
        ("setting-missing", "retrieval.server.index", {"first_stage": "opensearch", "server__endpoint": "http://h:1"}),
        ("search-body", "retrieval.server.body", {"first_stage": "opensearch", **server, "server__body": "{}"}),
        ("setting-conflict", "retrieval.bands", {"bands__top": 2000, "depth": 1000}),
        ("setting-conflict", "retrieval.bands.middle_share", {"bands__top": 1, "bands__top_share": 0.6}),
    ):  # fmt: skip
        with refuses(code, fact):
            loaded(**settings)
    assert loaded(first_stage="dense", dense__checkpoint=str(encoder)).cluster.first_stage == "dense"
    assert loaded(bands__top=3, bands__random=2, negatives=0).retrieval.wanted == 5
    [note] = [each for each in checks.notes(loaded(dense__checkpoint=str(encoder))) if "retrieval.dense" in each]
    assert "is not used" in note


def test_content_is_pinned(encoder, tmp_path):
    body = tmp_path / "body.json"
    body.write_text('{"query": {"match": {"title": "{query}"}}}')
    found = pin(loaded(first_stage="dense", dense__checkpoint=str(encoder))).retrieval.dense
    assert found.revision and found.checkpoint == str(encoder)
    index = {"server__endpoint": "http://h:9200", "server__index": "handbook", "server__body": str(body)}
    assert pin(loaded(first_stage="opensearch", **index)).retrieval.server.body == body.read_text()
    folder = beir.write(tmp_path / "beir", {"runs/a.trec": b"q1 Q0 d1 1 2.0 x\n"})
    runs = {"source.uri": str(folder), "source.runs": ["runs/a.trec"], "source.name": "s"}
    before = pin(profiles.load("demo", runs)).source
    assert before.runs == (f"{folder}/runs/a.trec",)
    (folder / "runs" / "a.trec").write_bytes(b"q1 Q0 d2 1 2.0 x\n")
    assert pin(profiles.load("demo", runs)).source.fingerprint != before.fingerprint


def test_preflight_looks_for_what_it_needs(encoder, tmp_path):
    collections = [CorpusConfig(str(tmp_path), "c", runs=("a.trec",))]
    dense = RetrieveConfig(first_stage="dense", dense=DenseConfig(str(encoder)))
    compiled = dataclasses.replace(NEED, first_stage="dense")
    assert "pools by mean" in check_first_stage(dense, collections, compiled)
    assert "pools by mean" in check_first_stage(dense, collections, dataclasses.replace(NEED, stage=""))
    with refuses("setting-compiled", "compiled for bm25", "torch and GPUs"):
        check_first_stage(dense, collections, NEED)
    assert "BM25" in check_first_stage(RetrieveConfig(), collections, NEED)
    run = RetrieveConfig(first_stage="run")
    with refuses("not-found", "a.trec"):
        check_first_stage(run, collections, NEED)
    (tmp_path / "a.trec").write_text("")
    assert check_first_stage(run, collections, NEED) == "1 run files: there"
    lost = bi_encoders.make(tmp_path / "lost", "cls")
    (lost / "1_Pooling" / "config.json").unlink()
    with refuses("checkpoint-pooling", "1_Pooling/config.json"):
        check_first_stage(dataclasses.replace(dense, dense=DenseConfig(str(lost))), collections, compiled)


def test_preflight_asks_the_index():
    need = dataclasses.replace(NEED, first_stage="opensearch")

    def config(server: SearchServer) -> RetrieveConfig:
        return RetrieveConfig(first_stage="opensearch", server=SearchServerConfig(server.url, "handbook"))

    with SearchServer({"a": "the moon"}) as server:
        assert "the index handbook answers (1 hits" in check_first_stage(config(server), [], need)
    error = {"error": {"type": "index_not_found_exception", "reason": "no such index [handbook]"}, "status": 404}
    with SearchServer({}, lambda _: {"responses": [error]}) as server, refuses("search-refused", "no such index"):
        check_first_stage(config(server), [], need)
    with SearchServer({}, lambda _: Answer(403, {"error": "forbidden"})) as server, refuses("server-refused"):
        check_first_stage(config(server), [], need)


def test_of_the_hub_only_what_it_answers_is_judged(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    dense = RetrieveConfig(first_stage="dense", dense=DenseConfig("org/encoder"))
    with pytest.raises((Skipped, UserError)):
        check_first_stage(dense, [], dataclasses.replace(NEED, first_stage="dense"))


def test_the_plan_counts_what_is_embedded(encoder):
    speeds = by_size_alone("A100")
    plain, dense = (
        make_plan(each, "A100", 0.0, speeds)
        for each in (loaded(), loaded(first_stage="dense", dense__checkpoint=str(encoder)))
    )
    before, after = ([row for row in plan.rows if row.stage == "retrieve"] for plan in (plain, dense))
    hidden = json.loads((encoder / "config.json").read_text())["hidden_size"]
    for one, other in zip(before, after, strict=True):
        assert (one.tokens, one.hours) == (0, 0.0) and other.tokens > other.documents > 0 and other.hours
        assert other.stored == one.stored + other.documents * 4 * hidden
    assert any(note.startswith("embed: ") for note in dense.notes)
