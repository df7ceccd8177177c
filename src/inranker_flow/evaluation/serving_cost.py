"""What a reranker costs to serve: pairs a second, the time to rerank 100 passages for one query on this device, its size."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from inranker_flow.evaluation import runs
from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.rankers import devices
from inranker_flow.rankers.base import Ranker
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.scoring.job import Work, largest
from inranker_flow.storage.local import digest_file

#: Passages that are reranked for one query.
PASSAGES = 100
#: Seconds after which a slow model is timed no more: fewer queries then, at least one.
SECONDS = 60.0

#: Pairs that are timed where fewer were scored here, because the others' scores were found.
SAMPLE = 512
#: In as many pieces, each with prompts of all lengths: a slow model is timed on fewer.
_PIECES = 4

Pair = tuple[str, str]


@dataclass(frozen=True)
class Costs:
    """What was measured of one model: ``pairs`` in ``seconds`` in ``processes``, loading and tokenising apart, and the
    milliseconds (``latencies``) of reranking 100 passages for one query, tokenising included, in one process.

    ``sampled``: the pairs were scored for this alone. ``device`` in words; ``machine`` as :func:`machine` has it.
    """

    parameters: int = 0
    pairs: int = 0
    seconds: float = 0.0
    processes: int = 0
    sampled: bool = False
    latencies: Sequence[float] = ()
    device: str = ""
    machine: str = ""
    #: What `precision.measure_error` found, where the model computes in less than float32 on a CPU.
    error: Mapping[str, float] = field(default_factory=dict)


def measure(ranker: Ranker, work: Work, pairs: Sequence[Pair], timed: Sequence[Sequence[Pair]]) -> Costs:
    """Return the costs of ``ranker``: pairs a second as the ``work`` on ``pairs`` has shown it, or on a sample of them where
    there was little, and the latencies of ``timed``. It is alone on its device now."""
    count, seconds, processes = work.pairs, work.seconds, work.processes
    sampled = count < min(SAMPLE, len(pairs) / 10)
    if sampled:
        (count, seconds), processes = _speed(ranker, pairs), 1
    times = latencies(ranker.score, timed)
    return Costs(ranker.parameters, count, seconds, processes, sampled, times, device_name(), machine())


def together(costs: Sequence[Costs]) -> Costs:
    """Return the costs of models that score every pair one after another; what is not known of one is not known of all."""
    first, known = costs[0], all(each.parameters for each in costs)
    timed = known and len({len(each.latencies) for each in costs}) == 1
    seconds = sum(first.pairs * each.seconds / each.pairs for each in costs if each.pairs)
    measured = all(each.pairs for each in costs)
    return Costs(
        parameters=sum(each.parameters for each in costs) if known else 0,
        pairs=first.pairs if measured else 0,
        seconds=seconds if measured else 0.0,
        processes=first.processes if len({each.processes for each in costs}) == 1 else 0,
        sampled=any(each.sampled for each in costs),
        latencies=[sum(each) for each in zip(*(each.latencies for each in costs), strict=True)] if timed else (),
        device=" and ".join(dict.fromkeys(each.device for each in costs)),
        machine=first.machine,
        error=largest(each.error for each in costs),
    )


def _speed(ranker: Ranker, pairs: Sequence[Pair]) -> tuple[int, float]:
    """Return (pairs, seconds) of a sample that is spread over all ``pairs``."""
    rows = np.unique(np.linspace(0, len(pairs) - 1, min(SAMPLE, len(pairs))).astype(np.int64))
    job = ranker.prepare_pairs([pairs[row] for row in rows.tolist()])
    order = np.argsort(-job.lengths, kind="stable")
    pieces = [piece for piece in (order[start::_PIECES] for start in range(_PIECES)) if len(piece)]
    job.score(pieces[0])  # what is slow once
    count, start = 0, time.perf_counter()
    for piece in pieces:
        job.score(piece)
        count += len(piece)
        if time.perf_counter() - start > SECONDS:
            break
    return count, time.perf_counter() - start


@dataclass(frozen=True)
class Requests:
    """The requests that are timed: the first of ``lists`` warms up. ``filled``: how many of the timed queries have fewer than
    100 candidates and were given passages of other queries too (in a small test set, the same ones again)."""

    lists: list[list[Pair]]
    filled: int


def requests(sets: Sequence[JudgedSet], queries: int) -> Requests:
    """Return ``queries`` test queries with 100 passages each, from all test sets in turn and spread over each."""
    turns = [_of_set(each, queries) for each in sets] if queries else []
    chosen = list(islice(cycle(_in_turn(turns)), queries))
    lists = [pairs for pairs, _ in chosen]
    return Requests([*lists[:1], *lists], sum(filled for _, filled in chosen))


def _in_turn(turns: Sequence[Iterator[tuple[list[Pair], bool]]]) -> Iterator[tuple[list[Pair], bool]]:
    waiting = list(turns)
    while waiting:
        for turn in list(waiting):
            found = next(turn, None)
            if found is None:
                waiting.remove(turn)
            else:
                yield found


def _of_set(judged_set: JudgedSet, count: int) -> Iterator[tuple[list[Pair], bool]]:
    """At most ``count`` queries of one test set, and of each whether its candidates had to be filled up."""
    ends = np.append(judged_set.starts[runs.query_starts(judged_set.run)], len(judged_set.pairs))
    step = max(1, (len(ends) - 1) // count)
    for first in range(0, len(ends) - 1, step):
        own = judged_set.pairs[ends[first] : ends[first + 1]][:PASSAGES]
        passages = [passage for _, passage in own]
        if len(own) < PASSAGES:
            passages += islice(_others(judged_set.pairs, set(passages)), PASSAGES - len(own))
        yield [(own[0][0], passage) for passage in islice(cycle(passages), PASSAGES)], len(own) < PASSAGES


def _others(pairs: Sequence[Pair], known: set[str]) -> Iterator[str]:
    for _, passage in pairs:
        if passage not in known:
            known.add(passage)
            yield passage


def latencies(score: Callable[[Sequence[Pair]], object], lists: Sequence[Sequence[Pair]]) -> list[float]:
    """Return milliseconds of each of ``lists`` but the first, which warms up; of the first alone where nothing else fits into
    the time."""
    times: list[float] = []
    begun = time.perf_counter()
    with _quiet():
        for pairs in lists:
            start = time.perf_counter()
            score(pairs)
            times.append(1000 * (time.perf_counter() - start))
            if time.perf_counter() - begun > SECONDS:
                break
    return times[1:] or times


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a line of progress for each query."""
    progress = logging.getLogger("inranker_flow.progress")
    before = progress.level
    progress.setLevel(logging.WARNING)
    try:
        yield
    finally:
        progress.setLevel(before)


def device_name() -> str:
    """Return the name of the device on which models compute here."""
    import torch

    if (name := devices.device_name()) != "cpu":
        return name
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def machine() -> str:
    """Return a short name of this kind of machine, whatever number of threads is set: costs of another kind are no costs here."""
    name = devices.device_name()
    return sha256((cpu_name() if name == "cpu" else name).encode()).hexdigest()[:12]


def cpu_name() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or f"{platform.machine()} CPU"


def shape(folder: Path) -> str:
    """Return the parts of a checkpoint that decide its speed: the sizes of its layers, and its tokenizer. "" if its
    config.json does not say them."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""  # what is wrong with it, the loader says
    if not isinstance(config, dict) or "model_type" not in config:
        return ""
    sizes = {
        key: value
        for key, value in sorted(config.items())
        if key in ("model_type", "feed_forward_proj") or (type(value) is int and not key.endswith("_id"))
    }
    tokenizer = sorted({path for name in ("tokenizer.json", "*.model") for path in folder.glob(name)})
    return json.dumps([sizes, [digest_file(path) for path in tokenizer]])


def size_mb(reference: str, revision: str = "") -> float | None:
    """Return megabytes (10^6 bytes) of a checkpoint's weights, configuration and tokenizer; None for one that is no folder."""
    folder = _folder(reference, revision)
    if folder is None:
        return None
    # A folder of the hub may hold the same weights twice.
    weights = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    beside = [path for pattern in ("*.json", "*.model", "*.txt") for path in folder.glob(pattern)]
    return sum(path.stat().st_size for path in (*weights, *beside) if path.name != "training.json") / 1e6


def _folder(reference: str, revision: str) -> Path | None:
    """Return the folder with a checkpoint's files: its own, or the hub's cache after it was loaded."""
    if reference.startswith("init:"):
        return None
    folder = locate(reference)
    if folder is None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(reference, "config.json", revision=revision or None)
        folder = Path(found).parent if isinstance(found, str) else None
    return folder
