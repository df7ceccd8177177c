"""Scoring and labelling on a GPU: the logits of a CPU, asynchronous transfers, memory that runs out, several GPUs."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from inranker_flow.config.sections import ScoringConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.rankers.loading import load_ranker, load_reader
from inranker_flow.scoring import processes as workers
from inranker_flow.scoring.job import Checkpoint
from inranker_flow.stages.teacher_label import teacher_label
from tests import models, teachers
from tests.unit.test_labelling import DOCUMENTS, PAIRS, QUERIES, read

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

TEACHERS = {
    "monot5": models.t5,
    "monot5 v1.1": lambda: models.t5(untied=True),
    "causal": teachers.causal,
    "encoder": teachers.encoder,
}
FLOAT32 = ScoringConfig(dtype="float32")
TEXTS = [
    (f"where is the {word}", " ".join(models.WORDS.split()[:length]))
    for word in ("moon", "river")
    for length in range(8, 60)
]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def on_the_cpu(checkpoint: str, scoring: ScoringConfig, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patched:
        for kind in ("monot5", "causal", "encoder"):
            patched.setattr(f"inranker_flow.rankers.{kind}.pick_device", lambda: torch.device("cpu"))
        ranker = load_ranker(checkpoint, scoring)
        assert ranker.device.type == "cpu"
        return ranker.score(TEXTS)


@pytest.mark.parametrize("kind", TEACHERS)
def test_float32_logits_are_those_of_the_cpu(kind, monkeypatch):
    ranker = load_ranker(TEACHERS[kind](), FLOAT32)
    assert ranker.device.type == "cuda"
    assert np.abs(ranker.score(TEXTS) - on_the_cpu(TEACHERS[kind](), FLOAT32, monkeypatch)).max() < 1e-4


@pytest.mark.parametrize("kind", TEACHERS)
def test_bfloat16_is_the_default_and_near(kind, monkeypatch):
    if not torch.cuda.is_bf16_supported():
        pytest.skip("this GPU does not compute in bfloat16")
    found, exact = (
        load_ranker(TEACHERS[kind](), ScoringConfig()).score(TEXTS),
        on_the_cpu(TEACHERS[kind](), FLOAT32, monkeypatch),
    )
    assert 0 < np.abs(found - exact).max() < 0.3
    assert (found.astype(np.float32).view(np.uint32) & 0xFFFF).any(), "the last layer is computed in float32"


def test_the_compiled_forward_gives_the_same(monkeypatch):
    compiled = load_ranker(models.t5(), replace(FLOAT32, compile=True)).score(TEXTS)
    assert np.abs(compiled - on_the_cpu(models.t5(), FLOAT32, monkeypatch)).max() < 1e-4


def test_transfers_do_not_wait_for_the_device():
    ranker = load_ranker(models.t5(), FLOAT32)
    array = np.arange(2**20).reshape(1024, 1024)
    ranker.send(array)  # the first allocates
    torch.cuda.synchronize()
    torch.cuda._sleep(2 * 10**9)  # cycles: about a second
    start = time.monotonic()
    sent = ranker.send(array)
    seconds = time.monotonic() - start
    torch.cuda.synchronize()
    assert seconds < 0.5 * (time.monotonic() - start), "the copy was enqueued behind the sleeping kernel"
    assert sent.device.type == "cuda" and (sent.cpu().numpy() == array).all()


@pytest.mark.parametrize("kind", TEACHERS)
def test_no_batch_waits_for_the_one_before(kind):
    """Between two batches nothing asks the GPU for a result: the host is always ahead."""
    ranker = load_ranker(TEACHERS[kind](), FLOAT32)
    job = ranker.prepare(
        [text for text, _ in TEXTS], [text for _, text in TEXTS], np.arange(len(TEXTS))[:, None].repeat(2, 1)
    )
    inputs = job.inputs(np.arange(16))
    ranker.forward(*inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        logits = [ranker.forward(*inputs) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(logits[0], logits[2])


def limited(share: float) -> None:
    """This process may have ``share`` of what is free, from here on."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + share * free) / total)


def test_a_batch_that_does_not_fit_is_halved_and_that_is_remembered(monkeypatch):
    pairs = [(f"moon {number}", "stone " * 400) for number in range(512)]
    expected = load_ranker("init:small", replace(FLOAT32, batch_tokens=16_384)).score(pairs)
    ranker = load_ranker("init:small", replace(FLOAT32, batch_tokens=10**6))
    ranker.score(pairs[:8])
    try:
        free = torch.cuda.mem_get_info()[0]
        limited(2 * 2**30 / free)
        assert np.abs(ranker.score(pairs) - expected).max() < 1e-4
        assert ranker.batches.tokens <= 500_000
        learnt = ranker.batches.tokens
        ranker.score(pairs)
        assert ranker.batches.tokens == learnt
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_no_memory_for_one_prompt_is_one_clear_line():
    ranker = load_ranker("init:small", FLOAT32)
    ranker.score([("moon", "stone")])
    try:
        limited(0.0)
        with pytest.raises(
            UserError, match=r"out of memory with a single prompt of \d+ tokens: lower scoring.max_length"
        ) as error:
            ranker.score([("moon", "stone " * 500)] * 4)
        assert "\n" not in str(error.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_int8_is_refused():
    with pytest.raises(UserError, match="int8 is for CPUs, and this machine computes on cuda"):
        load_ranker(models.t5(), ScoringConfig(dtype="int8"))


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path):
    collection = models.collection(tmp_path / "collection", DOCUMENTS)
    return collection, models.candidates(tmp_path / "candidates", QUERIES, PAIRS)


def config(**changes) -> TeacherConfig:
    return TeacherConfig(models.t5(), shard_pairs=7, scoring=replace(FLOAT32, batch_tokens=64), **changes)


def test_a_process_that_is_killed_on_the_gpu_changes_nothing(tmp_path, monkeypatch):
    reader = load_reader(models.t5(), FLOAT32)
    queries, documents = zip(*TEXTS, strict=True)
    prompts = reader.prepare(queries, documents, np.arange(len(TEXTS))[:, None].repeat(2, 1))
    give, killed = workers.Workers._give, []

    def killing(self, worker, chunk):
        give(self, worker, chunk)
        if not killed:
            killed.append(worker.process.pid)
            os.kill(worker.process.pid, signal.SIGKILL)

    monkeypatch.setattr(workers.Workers, "_give", killing)
    with workers.Workers(Checkpoint(models.t5(), scoring=config().scoring), prompts, 1, tmp_path) as processes:
        ((_, logits),) = processes.score({0: slice(0, len(TEXTS))}, Progress("", 1, "tokens"))
        order = processes.order
    alone = load_ranker(models.t5(), config().scoring)
    assert killed and np.array_equal(logits, alone.job(prompts).score(order))


def test_more_processes_than_gpus_are_refused(inputs, tmp_path):
    count = torch.cuda.device_count() + 1
    with pytest.raises(UserError, match=f"teacher.processes: {count}, but this machine has {count - 1} GPUs"):
        teacher_label(config(processes=count), *inputs, tmp_path / "labels")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs here")
def test_all_gpus_give_the_labels_of_one(inputs, tmp_path, caplog):
    teacher_label(config(processes=1), *inputs, tmp_path / "one")
    with caplog.at_level("INFO", "inranker_flow"):
        teacher_label(config(), *inputs, tmp_path / "all")
    assert f"labelling in {torch.cuda.device_count()} processes" in caplog.text
    assert read(tmp_path / "all") == read(tmp_path / "one")
