"""Scoring in several processes: who takes what, who dies, and that no label depends on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inranker_flow import lifeline
from inranker_flow.config.sections import ScoringConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.rankers import arrays
from inranker_flow.rankers.loading import load_ranker, load_reader
from inranker_flow.scoring import processes as workers
from inranker_flow.scoring.job import Checkpoint
from inranker_flow.scoring.processes import Workers
from inranker_flow.stages.teacher_label import teacher_label
from tests import models, teachers
from tests.refusals import refuses
from tests.unit.test_labelling import DOCUMENTS, PAIRS, QUERIES, read

MODEL = Checkpoint("the-model")


class Lengths:
    """Prompts that are nothing but their lengths."""

    cut_queries = 0

    def __init__(self, lengths):
        self.lengths = np.array(lengths)

    def save(self, folder):
        arrays.save(folder, lengths=self.lengths)


def answer(checkpoint, number, threads, folder, connection):
    """As `workers.work`, in a process of its own, but what it answers for a pair is its number and its length.

    `checkpoint.reference` says what else it does; its `revision` may be a file that has to be there before anything is scored.
    """
    lifeline.end_with_parent()
    order, lengths = (arrays.mapped(Path(folder), name) for name in ("order", "lengths"))
    if f"breaks-{number}" in checkpoint.reference:
        sys.exit(7)
    connection.send(("ready", (100, 1, 0)))
    while True:
        start, stop = connection.recv()
        while checkpoint.revision and not Path(checkpoint.revision).exists():
            time.sleep(0.01)
        rows = order[start:stop]
        if "refuses" in checkpoint.reference and lengths[rows[0]] < 20:
            connection.send(("refused", ("out of memory with a single prompt", "out-of-memory")))
            return
        if "chokes" in checkpoint.reference and 33 in rows:
            os.kill(os.getpid(), signal.SIGKILL)
        if "tells" in checkpoint.reference:
            connection.send(("tokens", int(lengths[rows[0]])))
        if f"waits-{number}" in checkpoint.reference:
            time.sleep(600)
        connection.send(("logits", np.stack([rows, lengths[rows]], axis=1).astype(float)))


@pytest.fixture
def plan(monkeypatch, quick_processes):
    monkeypatch.setattr(workers, "work", answer)
    return Lengths(np.random.default_rng(0).integers(5, 90, 400))


def scored(plan, tmp_path, count=2, model=MODEL, shard=150):
    """Logits by pair, and the progress that was counted."""
    parts = {number: slice(start, min(start + shard, 400)) for number, start in enumerate(range(0, 400, shard))}
    progress, logits = Progress("labelling", int(plan.lengths.sum()), "tokens"), np.full((400, 2), np.nan)
    with Workers(model, plan, count, tmp_path) as processes:
        for number, values in processes.score(parts.items(), progress):
            logits[processes.order[parts[number]]] = values
    assert not list(tmp_path.iterdir()), "the files that they shared are gone"
    return logits, progress


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_pair_gets_its_own_answer_and_every_token_is_counted_once(plan, tmp_path, count):
    logits, progress = scored(plan, tmp_path, count, Checkpoint("tells"))
    assert np.array_equal(logits, np.stack([np.arange(400), plan.lengths], axis=1))
    assert progress.done == progress.total


def test_chunks_are_whole_batches_and_do_not_depend_on_the_number_of_processes(plan, tmp_path, monkeypatch):
    given = {1: [], 3: []}
    for count, chunks in given.items():
        give = Workers._give

        def recording(self, worker, chunk, chunks=chunks, give=give):
            chunks.append((chunk.start, chunk.stop))
            give(self, worker, chunk)

        with monkeypatch.context() as patched:
            patched.setattr(Workers, "_give", recording)
            scored(plan, tmp_path, count)
    assert sorted(given[1]) == sorted(given[3]) and len(given[1]) > 20
    assert given[1] == sorted(given[1]), "largest first"
    order = np.argsort(-plan.lengths, kind="stable")
    tokens = [int(plan.lengths[order[start:stop]].sum()) for start, stop in given[1]]
    assert max(tokens) < 3 * np.median(tokens) and set(np.concatenate([np.arange(*each) for each in given[1]])) == {
        *range(400)
    }
    ends = {150, 300, 400}
    for place in (slice(0, 150), slice(150, 300), slice(300, 400)):
        batches = workers.Batches(100, 1).split(plan.lengths[order[place]])
        ends |= {place.start + int(end) for end in np.cumsum([len(each) for each in batches])}
    assert {stop for _, stop in given[1]} <= ends


def test_a_slow_process_holds_nobody_up(plan, tmp_path):
    """It waits for ever with its first chunk in hand, until it is killed: the other has done all the rest by then."""
    done = []
    with Workers(Checkpoint("tells waits-0"), plan, 2, tmp_path) as processes:
        progress = Progress("labelling", int(plan.lengths.sum()), "tokens")
        inner = processes._take

        def counting(worker, logits, progress):
            done.append(worker.number)
            if len(processes._pending) == 0 and len(processes._workers[1].chunks) == 1 and 0 in processes._workers:
                # All that is left is in the hands of the one that sleeps.
                os.kill(processes._workers[0].process.pid, signal.SIGKILL)
                processes._checkpoint = MODEL  # its successor does not sleep
            return inner(worker, logits, progress)

        processes._take = counting
        ((_, logits),) = processes.score([(0, slice(0, 400))], progress)
        assert np.array_equal(logits[:, 0], processes.order)
    assert done.count(0) <= 3 and done.count(1) > 20 and progress.done == progress.total


def test_a_chunk_that_kills_again_and_again_is_named(plan, tmp_path, caplog):
    with pytest.raises(UserError) as refused:
        scored(plan, tmp_path, model=Checkpoint("chokes"))
    message = str(refused.value)
    assert message.startswith("chokes: 3 processes died of the same ") and "\n" not in message
    place = int(np.flatnonzero(np.argsort(-plan.lengths, kind="stable") == 33)[0])
    first, last = map(int, message.split("(places ")[1].split(" by")[0].split(" to "))
    assert first <= place <= last
    assert "was killed by SIGKILL: most likely too little memory; lower scoring.batch_tokens" in message
    assert caplog.text.count("what it had at hand is scored again") == 3
    assert not list(tmp_path.iterdir())


def test_a_device_that_does_not_work_is_given_up_and_the_others_go_on(
    plan, tmp_path, tmp_path_factory, monkeypatch, caplog
):
    given_up = tmp_path_factory.mktemp("signs") / "given-up"
    bury = Workers._bury

    def telling(self, worker, progress):
        bury(self, worker, progress)
        if worker.number == 1 and 1 not in self._workers:
            given_up.touch()

    monkeypatch.setattr(Workers, "_bury", telling)
    # The other scores nothing before that, however slowly this machine starts processes.
    logits, progress = scored(plan, tmp_path, 2, Checkpoint("breaks-1", revision=str(given_up)))
    assert np.array_equal(logits[:, 0], np.arange(400)) and progress.done == progress.total
    assert "process 1 ended with status 7 before it scored anything" in caplog.text
    assert "process 1 is given up: the others go on without it" in caplog.text


def test_no_process_is_left(plan, tmp_path):
    with pytest.raises(
        UserError, match=r"3 processes in a row died, the last one ended with status 7, and none is left"
    ):
        scored(plan, tmp_path, 2, Checkpoint("breaks-0 breaks-1"))
    assert not list(tmp_path.iterdir())


def test_what_a_process_refuses_is_the_parents_line(plan, tmp_path):
    with refuses("out-of-memory"):
        scored(plan, tmp_path, model=Checkpoint("refuses"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_killed_parent(plan, tmp_path, how):
    script = """
import pathlib, sys
from inranker_flow.progress import Progress
from inranker_flow.scoring import processes as workers
from inranker_flow.scoring.job import Checkpoint
from tests.unit import test_workers

if __name__ == "__main__":
    workers.work = test_workers.answer
    plan = test_workers.Lengths([9] * 50)
    with workers.Workers(Checkpoint("waits-0 waits-1"), plan, 2, pathlib.Path(sys.argv[1])) as processes:
        print(*(each.process.pid for each in processes._workers.values()), flush=True)
        list(processes.score([(0, slice(0, 50))], Progress("labelling", 450, "tokens")))
"""
    (tmp_path / "parent.py").write_text(script)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py", tmp_path], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    children = [int(each) for each in parent.stdout.readline().split()]
    assert len(children) == 2 and all(map(runs, children))
    parent.send_signal(how)
    parent.wait()
    while any(map(runs, children)):  # as long as it takes: a test that never ends is ended by pytest
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- with real models ---------------------------------------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path):
    collection = models.collection(tmp_path / "collection", DOCUMENTS)
    return collection, models.candidates(tmp_path / "candidates", QUERIES, PAIRS)


def test_labels_are_the_same_to_the_last_bit_though_a_process_is_killed(
    inputs, tmp_path, monkeypatch, caplog, quick_processes
):
    config = TeacherConfig(models.t5(), shard_pairs=7, scoring=ScoringConfig(batch_tokens=64), processes=1)
    one = teacher_label(config, *inputs, tmp_path / "one")
    killed = []
    give = Workers._give

    def killing(self, worker, chunk):
        give(self, worker, chunk)
        if not killed:
            killed.append(worker.process.pid)
            os.kill(worker.process.pid, signal.SIGKILL)

    monkeypatch.setattr(Workers, "_give", killing)
    two = teacher_label(replace(config, processes=2), *inputs, tmp_path / "two")
    assert killed and "was killed by SIGKILL: what it had at hand is scored again" in caplog.text
    assert read(tmp_path / "two") == read(tmp_path / "one")
    assert (two.tokens, two.pairs, two.cut_queries) == (one.tokens, one.pairs, one.cut_queries)


class Parent:
    """The other end of a process's connection: what it asks for, and what it was told."""

    def __init__(self, *asks):
        self.asks, self.told = list(asks), []

    def recv(self):
        if not self.asks:
            raise EOFError
        return self.asks.pop(0)

    def send(self, message):
        self.told.append(message)


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(lifeline, "end_with_parent", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def test_what_the_model_alone_can_refuse_is_told_and_not_died_of(in_this_process, tmp_path):
    """The tokenizer, which the parent has read, says nothing of positions."""
    parent = Parent()
    model = Checkpoint(teachers.encoder(), scoring=ScoringConfig(max_length=600))
    workers.work(model, 0, 1, str(tmp_path), parent)
    ((what, (line, code)),) = parent.told
    assert what == "refused" and "max_length 600 is more than the checkpoint's 512 positions" in line
    assert "\n" not in line and code == "setting-value"


@pytest.mark.parametrize("teacher", [models.t5, teachers.causal, teachers.encoder])
def test_a_process_scores_what_was_saved_as_the_parent_would(teacher, in_this_process, tmp_path):
    ranker = load_ranker(teacher(), ScoringConfig())
    index = np.array([(int(query[1:]), int(document[1:])) for query, document in PAIRS])
    reader = load_reader(teacher(), ScoringConfig())
    prompts = reader.prepare(QUERIES.values(), DOCUMENTS.values(), index)
    order = np.argsort(-prompts.lengths, kind="stable")
    prompts.save(tmp_path)
    arrays.save(tmp_path, order=order)
    parent = Parent((0, 10), (10, 24))
    workers.work(Checkpoint(teacher()), 0, 1, str(tmp_path), parent)
    told = dict(parent.told[:1])
    assert told == {"ready": (ranker.batches.tokens, ranker.batches.pad_to, ranker.known)}
    logits = [values for what, values in parent.told if what == "logits"]
    job = ranker.prepare(QUERIES.values(), DOCUMENTS.values(), index)
    assert np.array_equal(logits[0], job.score(order[:10])) and np.array_equal(logits[1], job.score(order[10:]))


def test_more_processes_than_gpus_are_refused(inputs, tmp_path, monkeypatch):
    import torch

    checkpoint = models.t5()  # made before torch is told of GPUs that are not there
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"teacher.processes: 3, but this machine has 2 GPUs, one for each"):
        teacher_label(TeacherConfig(checkpoint, processes=3), *inputs, tmp_path / "labels")
