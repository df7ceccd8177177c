"""Evaluation with real (small, random) models: in several processes, killed, and with what has been scored before."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from inranker_flow.config.sections import EvaluateConfig, ScoringConfig, TeacherConfig
from inranker_flow.evaluation import serving_cost
from inranker_flow.rankers.base import Job
from inranker_flow.rankers.monot5 import MonoT5Reader
from inranker_flow.rankers.pair_prompts import PairReader
from inranker_flow.scoring.processes import Workers
from inranker_flow.stages.evaluate import evaluate
from inranker_flow.stages.teacher_label import teacher_label
from inranker_flow.storage import uris
from tests import forked, models, teachers
from tests.unit.test_evaluation import make_candidates, make_collection, make_labels
from tests.unit.test_labelling import DOCUMENTS, NOUNS

QUERIES = {f"q{i}": f"what is a {NOUNS[i]}" for i in range(8)}
RANKED = {f"q{i}": [(f"d{(5 * i + k) % 40}", 9.0 - k) for k in range(7)] for i in range(8)}
PAIRS = [(query, doc) for query, found in RANKED.items() for doc, _ in found]
CONFIG = EvaluateConfig(
    shard_pairs=10, processes=1, latency_queries=0, scoring=ScoringConfig(batch_tokens=64, max_length=64)
)
TEACHER = TeacherConfig(models.t5(seed=3), scoring=ScoringConfig(batch_tokens=64))


class World:
    """One test set, two students, a champion and a teacher, all of one tokenizer."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        qrels = {query: {found[3][0]: 1} for query, found in RANKED.items()}
        self.collection = make_collection(tmp / "c", "toy", DOCUMENTS, QUERIES, qrels)
        self.candidates = make_candidates(tmp / "k", "toy", RANKED)
        self.labels = make_labels(tmp / "l", "toy", {"t1": ("another question", ["a passage"])})

    def evaluate(
        self, name: str, config: EvaluateConfig = CONFIG, teacher: TeacherConfig = TEACHER
    ) -> dict[str, dict[str, object]]:
        students = {f"phase{seed}": Path(models.t5(seed=seed)) for seed in (1, 2)}
        evaluate(
            config, teacher, [self.collection], [self.candidates], [self.labels], students, models.t5(seed=0),
            self.tmp / name, self.tmp / f"{name}.html",
        )  # fmt: skip
        found: dict[str, dict[str, object]] = json.loads((self.tmp / name / "summary.json").read_text())["models"]
        return found

    def runs(self, name: str) -> dict[str, str]:
        """Every system's scores, to the last bit."""
        return {path.name: path.read_text() for path in (self.tmp / name / "runs").iterdir()}

    def label(self) -> None:
        """Label the same pairs with the teacher."""
        collection = models.collection(self.tmp / "lc", DOCUMENTS)
        teacher_label(TEACHER, collection, models.candidates(self.tmp / "lk", QUERIES, PAIRS), self.tmp / "labels")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    return World(tmp_path)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs each call of a model in this process scored."""
    inner, calls = Job.score, []
    monkeypatch.setattr(
        Job, "score", lambda job, rows, progress=None: calls.append(len(rows)) or inner(job, rows, progress)
    )
    return calls


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_two_processes_give_the_bits_of_one_though_one_is_killed(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, quick_processes: None
) -> None:
    one = world.evaluate("one")
    killed: list[int] = []
    give = Workers._give

    def killing(self: Workers, worker: object, chunk: object) -> None:
        give(self, worker, chunk)  # type: ignore[arg-type]
        if not killed:
            killed.append(worker.process.pid)  # type: ignore[attr-defined]
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(Workers, "_give", killing)
    two = world.evaluate("two", replace(CONFIG, processes=2))
    assert killed and "was killed by SIGKILL: what it had at hand is scored again" in caplog.text
    assert world.runs("two") == world.runs("one") and len(world.runs("one")) == 5
    assert {model["processes"] for model in two.values()} == {2} and {m["processes"] for m in one.values()} == {1}
    # Students and champion have one shape, and so one speed, which rests on the pairs of all three.
    assert {name: model["timed_pairs"] for name, model in two.items()} == {
        "phase1": 168, "phase2": 168, "champion": 168, "teacher": 56,
    }  # fmt: skip
    assert not files(world.tmp / "scratch")


@contextmanager
def dies_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process scores so many shards, and no more."""
    inner, done = Job.score, []

    def score(job: Job, rows: object, progress: object = None) -> object:
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(rows)
        return inner(job, rows, progress)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Job, "score", score)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize("shards", [3, 8, 15])
def test_a_killed_evaluation_goes_on_on_another_machine(
    world: World, store: Path, monkeypatch: pytest.MonkeyPatch, scored: list[int], shards: int
) -> None:
    world.evaluate("whole")
    assert sum(scored) == 4 * 56 and not files(store / "unfinished")
    shutil.rmtree(store)
    scored.clear()
    with dies_after(shards, monkeypatch):
        world.evaluate("killed")
    assert not (world.tmp / "killed" / "manifest.json").exists() and len(scored) == shards
    monkeypatch.setenv("INRANKER_SCRATCH", str(world.tmp / "another"))
    world.evaluate("killed")
    # 56 pairs in shards of 10: nothing is scored twice.
    assert sum(scored) == 4 * 56 and max(scored) == 10
    assert world.runs("killed") == world.runs("whole")
    assert not files(store / "unfinished") and not files(world.tmp / "another")


def test_other_work_never_takes_a_shard(
    world: World, store: Path, monkeypatch: pytest.MonkeyPatch, scored: list[int]
) -> None:
    with dies_after(3, monkeypatch):
        world.evaluate("killed")
    scored.clear()
    world.evaluate("other", replace(CONFIG, scoring=replace(CONFIG.scoring, max_length=12)))
    assert sum(scored) == 4 * 56


def test_what_is_labelled_is_not_scored_again_and_the_other_way_round(
    world: World, store: Path, scored: list[int]
) -> None:
    world.label()
    scored.clear()
    found = world.evaluate("after")
    assert found["teacher"]["found_pairs"] == 56 and found["phase1"]["found_pairs"] == 0
    # Its speed is measured all the same, on a sample, and said to be.
    assert found["teacher"]["sampled"] is True and found["teacher"]["timed_pairs"] == 56
    assert found["teacher"]["pairs_per_second"] > 0 and found["phase1"]["sampled"] is False
    # Three models' pairs, and the sample: its first piece twice.
    assert sum(scored) == 3 * 56 + 56 + 14

    shutil.rmtree(store)
    scored.clear()
    world.evaluate("before")
    world.label()
    assert sum(scored) == 4 * 56, "labels found what the evaluation had scored"
    assert [row.split()[:3] for row in world.runs("before")["toy.teacher.trec"].splitlines()] == [
        row.split()[:3] for row in world.runs("after")["toy.teacher.trec"].splitlines()
    ]


def test_without_the_teachers_labels_of_this_very_reading_it_is_scored(
    world: World, store: Path, scored: list[int]
) -> None:
    world.label()
    other = replace(TEACHER, scoring=ScoringConfig(max_length=20))
    assert world.evaluate("other", teacher=other)["teacher"]["found_pairs"] == 0


def test_each_text_is_tokenised_once_for_each_tokenizer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int, int]] = []
    for kind in (MonoT5Reader, PairReader):

        def prepare(self, queries, documents, pairs, inner=kind.prepare):  # type: ignore[no-untyped-def]
            texts = list(queries), list(documents)
            made.append((type(self).__name__, *map(len, texts)))
            return inner(self, *texts, pairs)

        monkeypatch.setattr(kind, "prepare", prepare)
    used = {doc for _, doc in PAIRS}
    texts = len(QUERIES), len({DOCUMENTS[doc] for doc in used})
    world.evaluate("alike", teacher=replace(TEACHER, scoring=CONFIG.scoring))
    assert made == [("MonoT5Reader", *texts)], "four models of one tokenizer"
    made.clear()
    world.evaluate("two kinds", teacher=TeacherConfig(teachers.causal()))
    assert made == [("MonoT5Reader", *texts), ("CausalReader", *texts)]
    made.clear()
    world.evaluate("another length")
    assert made == [("MonoT5Reader", *texts)] * 2, "the teacher reads more of a passage: other prompts"


@pytest.mark.parametrize("checkpoint", [models.t5, teachers.causal, teachers.encoder])
def test_prompts_of_some_pairs_are_those_of_the_pairs(checkpoint) -> None:  # type: ignore[no-untyped-def]
    from inranker_flow.rankers.loading import load_ranker

    ranker = load_ranker(checkpoint(), ScoringConfig())
    pairs = [(QUERIES[query], DOCUMENTS[doc]) for query, doc in PAIRS]
    prompts = ranker.prepare_pairs(pairs)._prompts
    rows = [33, 2, 41, 7]
    some, own = prompts.select(rows), ranker.prepare_pairs([pairs[row] for row in rows])._prompts
    assert some.lengths.tolist() == own.lengths.tolist()
    for ours, theirs in zip(some.inputs([2, 0, 3]), own.inputs([2, 0, 3]), strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.long
def test_passages_of_long_documents_are_scored_by_all_processes(world: World, quick_processes: None) -> None:
    cut = replace(CONFIG, passage_words=6)
    one = world.evaluate("one", cut)
    two = world.evaluate("two", replace(cut, processes=2))
    assert world.runs("two") == world.runs("one")
    assert one["teacher"]["timed_pairs"] == two["teacher"]["timed_pairs"] > 56


def test_latencies_are_measured_alone_and_once(
    world: World, store: Path, monkeypatch: pytest.MonkeyPatch, scored: list[int]
) -> None:
    """What was measured before a kill is kept where the scores are; each model is alone on its device meanwhile."""
    timed: list[str] = []
    inner = serving_cost.latencies

    def noted(score, lists):  # type: ignore[no-untyped-def]
        timed.append(score.__self__.__class__.__name__ if lists else "")
        return inner(score, lists)

    monkeypatch.setattr(serving_cost, "latencies", noted)
    config = replace(CONFIG, latency_queries=2)
    with dies_after(6 + 3 + 2, monkeypatch):  # phase 1, its three requests, and two shards of phase 2
        world.evaluate("killed", config)
    assert timed == ["MonoT5Ranker"]
    found = world.evaluate("killed", config)
    assert timed == ["MonoT5Ranker", "", "MonoT5Ranker", ""], "the teacher reads otherwise; students are timed once"
    assert found["phase1"]["latency_queries"] == found["champion"]["latency_queries"] == 2
    assert found["phase2"]["timed_as"] == "phase1" and found["phase2"]["found_pairs"] == 20


def test_a_process_that_is_killed_leaves_its_shards_in_s3(
    world: World, s3: str, monkeypatch: pytest.MonkeyPatch, scored: list[int]
) -> None:
    """SIGKILL in the teacher's third shard; then another process, with another scratch folder."""
    monkeypatch.setenv("INRANKER_STORE", s3)
    script = """
import os, pathlib, signal, sys
from inranker_flow.rankers.base import Job
from tests.unit import test_reranking

inner, done = Job.score, []

def score(job, rows, progress=None):
    done.append(rows)
    if len(done) == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(job, rows, progress)

Job.score = score
test_reranking.models.t5 = lambda seed: sys.argv[2:][seed]
teacher = test_reranking.replace(test_reranking.TEACHER, checkpoint=sys.argv[5])
test_reranking.World(pathlib.Path(sys.argv[1])).evaluate("killed", teacher=teacher)
"""
    checkpoints = [models.t5(seed=seed) for seed in range(4)]
    status, printed = forked.run(script, world.tmp / "there", *checkpoints, INRANKER_SCRATCH=str(world.tmp / "lost"))
    assert status == -signal.SIGKILL, printed
    assert [each for each in uris.list_files(f"{s3}/unfinished") if each.uri.endswith(".parquet")]
    world.evaluate("here")
    assert sum(scored) == 4 * 56 - (2 * 56 + 20) and not list(uris.list_files(f"{s3}/unfinished"))
    monkeypatch.setenv("INRANKER_STORE", "off")
    world.evaluate("alone")
    assert world.runs("here") == world.runs("alone")
