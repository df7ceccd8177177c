"""Several teachers: each labels by itself, and the label is the mean of their standardised scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.parsing import as_dict, deciding, parse
from inranker_flow.config.sections import EvaluateConfig, ScoringConfig, Teacher, TeacherConfig
from inranker_flow.config.server import ServerConfig
from inranker_flow.labelling import average
from inranker_flow.labelling.average import Level
from inranker_flow.scoring import engine
from inranker_flow.stages import evaluate as stage
from inranker_flow.stages.teacher_label import help_label, teacher_label
from tests import models
from tests.rerank_server import RerankServer, raw
from tests.unit.test_labelling import DOCUMENTS, PAIRS, QUERIES, read
from tests.unit.test_reranking import QUERIES as TEST_QUERIES
from tests.unit.test_reranking import World

SCORING = ScoringConfig(batch_tokens=64)


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture
def inputs(tmp_path):
    collection = models.collection(tmp_path / "collection", DOCUMENTS)
    return collection, models.candidates(tmp_path / "candidates", QUERIES, PAIRS)


def both(server=None, **changes):
    second = Teacher(models.t5(seed=5), scoring=SCORING)
    if server:
        second = Teacher("big-reranker", backend="server", server=ServerConfig(endpoint=server.url))
    return TeacherConfig(models.t5(seed=3), scoring=SCORING, also=(second,), **changes)


def scores(folder):
    return np.array([true - false for false, true in read(folder).values()])


def test_an_average_has_the_level_0_and_the_mean_of_the_spreads():
    generator = np.random.default_rng(1)
    high, wide = 7 + generator.normal(size=1000), 20 * generator.normal(size=1000) - 3
    found = average.average([high, wide], [Level.of(high), Level.of(wide)])
    scale = (high.std() + wide.std()) / 2
    np.testing.assert_allclose(
        found, scale * ((high - high.mean()) / high.std() + (wide - wide.mean()) / wide.std()) / 2
    )
    assert abs(found.mean()) < 1e-12
    for each in (high, wide):  # the wide one does not drown the other
        assert np.corrcoef(found, each)[0, 1] == pytest.approx(np.sqrt(0.5), abs=0.05)
    np.testing.assert_allclose(average.average([high, high], [Level.of(high)] * 2), high - high.mean())
    np.testing.assert_array_equal(average.scores(average.logits(found)), found)


def test_a_teacher_that_says_the_same_of_everything_says_nothing():
    values = np.array([1.0, 2.0, 6.0])
    found = average.average([values, np.full(3, 9.0)], [Level.of(values), Level(9.0, 0.0)])
    np.testing.assert_allclose(found, (values - 3) / 4)


def test_the_label_is_the_mean_of_both_and_the_manifest_says_how(inputs, tmp_path):
    alone = {}
    for name, each in zip("ab", both().all, strict=True):
        teacher_label(TeacherConfig(each.checkpoint, scoring=SCORING), *inputs, tmp_path / name)
        alone[name] = scores(tmp_path / name)
    assert abs(np.corrcoef(alone["a"], alone["b"])[0, 1]) < 0.9, "two opinions"
    stats = teacher_label(both(), *inputs, tmp_path / "labels")
    assert (stats.pairs, stats.reused_pairs, stats.tokens) == (24, 24, 0), "labels of single teachers are reused"
    levels = [Level.of(each) for each in alone.values()]
    np.testing.assert_allclose(scores(tmp_path / "labels"), average.average(list(alone.values()), levels), atol=1e-6)
    assert all(false == -true for false, true in read(tmp_path / "labels").values())
    details = read_manifest(tmp_path / "labels").details
    assert details["teacher"] == f"{models.t5(seed=3)} + {models.t5(seed=5)}"
    told = details["teachers"]
    assert [(each["mean"], each["deviation"]) for each in told] == [
        pytest.approx((level.mean, level.deviation)) for level in levels
    ]
    assert details["identity"] == {"average": [each["identity"] for each in told]}


def test_what_one_of_them_has_labelled_is_not_labelled_again(inputs, tmp_path):
    first = teacher_label(TeacherConfig(models.t5(seed=3), scoring=SCORING), *inputs, tmp_path / "one")
    stats = teacher_label(both(), *inputs, tmp_path / "labels")
    assert (stats.reused_pairs, stats.tokens) == (0, first.tokens), "the second alone, which reads the same prompts"


def test_a_model_and_a_server_are_averaged(inputs, tmp_path, monkeypatch):
    with RerankServer() as server:
        stats = teacher_label(both(server), *inputs, tmp_path / "labels")
        asked = len(server.requests)
        monkeypatch.setenv("INRANKER_WORKERS", "2")
        helped = help_label(both(server), *inputs, 1)
    assert stats.requests == asked == 1 and helped.pairs == 0
    values = np.array([raw(QUERIES[q], DOCUMENTS[d]) for q, d in sorted(PAIRS)])
    one, other = read_manifest(tmp_path / "labels").details["teachers"]
    assert (other["mean"], other["deviation"]) == pytest.approx((values.mean(), values.std()))
    assert "least" in other and "least" not in one


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluated(world, teacher, labels, name):
    stage.evaluate(
        EvaluateConfig(shard_pairs=10, processes=1, latency_queries=2, scoring=ScoringConfig(batch_tokens=64, max_length=64)),
        teacher, [world.collection], [world.candidates], labels, {}, "", world.tmp / name, world.tmp / f"{name}.html",
    )  # fmt: skip
    summary = json.loads((world.tmp / name / "summary.json").read_text())
    rows = [line.split() for line in (world.tmp / name / "runs" / "toy.teacher.trec").read_text().splitlines()]
    return summary["models"]["teacher"], {(row[0], row[2]): float(row[4]) for row in rows}


def test_the_teacher_of_an_evaluation_is_the_average_by_the_levels_of_the_labels(tmp_path, inputs):
    world = World(tmp_path)
    labels = tmp_path / "labels"
    teacher_label(both(), *inputs, labels)
    parts = []
    for number, each in enumerate(both().all):
        alone = TeacherConfig(each.checkpoint, scoring=SCORING)
        model, found = evaluated(world, alone, [], f"alone{number}")
        parts.append((model, found))
    model, found = evaluated(world, both(), [labels], "both")
    told = read_manifest(labels).details["teachers"]
    levels = [Level(each["mean"], each["deviation"]) for each in told]
    keys = sorted(found)
    expected = average.average([np.array([part[key] for key in keys]) for _, part in parts], levels)
    np.testing.assert_allclose([found[key] for key in keys], expected, atol=1e-4)
    assert model["parameters"] == sum(part["parameters"] for part, _ in parts) > 0
    assert model["size_mb"] == pytest.approx(sum(part["size_mb"] for part, _ in parts))
    assert model["reference"] == " + ".join(each.checkpoint for each in both().all)
    assert model["found_pairs"] == len(keys), "each teacher's scores were there"
    assert model["latency_median_ms"] > 0
    # Without labels of these teachers, by the levels of the candidates themselves.
    _, own = evaluated(world, both(), [world.labels], "own")
    levels = [Level.of(np.array(list(part.values()))) for _, part in parts]
    np.testing.assert_allclose(
        [own[key] for key in keys],
        average.average([np.array([part[key] for key in keys]) for _, part in parts], levels), atol=1e-4,
    )  # fmt: skip


def test_an_evaluation_asks_the_server_as_labelling_does(tmp_path, inputs, monkeypatch):
    world = World(tmp_path)
    teacher = TeacherConfig("big-reranker", backend="server", server=ServerConfig(retries=0))
    with RerankServer() as server:
        teacher = parse(TeacherConfig, {**as_dict(teacher), "server": {"endpoint": server.url}}, "teacher")
        monkeypatch.setattr(engine, "score", lambda *_: pytest.fail("a model was loaded"))
        model, found = evaluated(world, teacher, [], "first")
        asked = len(server.pairs())
        again, same = evaluated(world, teacher, [], "again")
        assert len(server.pairs()) == asked == len(found)
    assert same == found and again["found_pairs"] == asked
    assert found == pytest.approx({(q, d): raw(TEST_QUERIES[q], DOCUMENTS[d]) for q, d in found}, abs=1e-5)
    assert (model["device"], model["parameters"], model["size_mb"]) == ("a server", 0, None)
    assert model["latency_queries"] == 0 and model["timed_pairs"] == asked


def test_settings_of_a_server_that_change_no_result_are_in_no_key():
    def key(**server):
        each = Teacher("m", backend="server", server=ServerConfig(**server))
        return deciding(TeacherConfig("x", also=(each,)))

    assert key(endpoint="http://a", concurrency=2) == key(endpoint="http://b", request_pairs=9)
    assert key(api="tei") != key(api="score")
