"""Processes that score one plan together: one for each GPU, or several on a CPU.

The plan's pairs, longest first, are cut into chunks of about the same number of tokens; a process that is free takes the
next one, so the fast do more and all end together. Where a chunk ends depends on the plan alone, and a chunk is a whole
number of batches: every pair is scored in the same batch, whatever the number of processes, and whoever takes it.

A process that dies is started again and its chunk is scored again. Nothing outlives the process that started them.
"""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType

import numpy as np

from inranker_flow import cpus, lifeline, scratch
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.rankers import arrays
from inranker_flow.rankers.base import Prompts
from inranker_flow.rankers.batches import Batches
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.scoring.job import Checkpoint

log = logging.getLogger(__name__)

#: A chunk has a 128th of the plan's tokens, so that nobody waits long at the end, but no more than this many batches ...
CHUNKS, CHUNK_BATCHES = 128, 32
#: Chunks that a process has at hand: the next one is there when it is done with the first.
AHEAD = 2
#: Processes that may die, one after the other, of the same chunk or on the same device.
DEATHS = 3
#: Seconds between two messages about progress.
PAUSE = 0.5


@dataclass(eq=False)
class _Chunk:
    """Places ``start`` to ``stop`` of the order, all of one part."""

    part: int
    start: int
    stop: int
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    number: int
    process: multiprocessing.process.BaseProcess
    connection: Connection
    ready: bool = False
    chunks: deque[_Chunk] = field(default_factory=deque)
    #: Tokens of the first chunk that were reported already.
    counted: int = 0


@dataclass(frozen=True)
class _Part:
    """A part that is being scored: its place in the order, its logits, the chunks that are still out."""

    place: slice
    logits: np.ndarray
    open: set[_Chunk]


class Workers:
    """``count`` processes that score ``prompts`` with ``checkpoint``. ``folder`` is for files that they share, ``what`` for the
    log, ``setting`` what their number is called.

    Raises :class:`UserError` with the line of a process that refused (no such label token, out of memory with one prompt),
    and where process after process dies.
    """

    def __init__(
        self, checkpoint: Checkpoint, prompts: Prompts, count: int, folder: Path, what: str = "scoring",
        setting: str = "processes",
    ) -> None:  # fmt: skip
        self._checkpoint, self._count, self._what, self._setting = checkpoint, count, what, setting
        #: Tokens that are computed for each pair, once a process has said what its model knows of every prompt.
        self.lengths: np.ndarray = prompts.lengths
        #: The pairs, longest prompts first.
        self.order = np.argsort(-prompts.lengths, kind="stable")
        self._held = ExitStack()
        self._folder = self._held.enter_context(scratch.aside(folder / "prompts", folder=True))
        self._workers: dict[int, _Worker] = {}
        self._deaths = dict.fromkeys(range(count), 0)
        self._pending: deque[_Chunk] = deque()
        self._open: dict[int, _Part] = {}
        try:
            prompts.save(self._folder)
            arrays.save(self._folder, order=self.order)
            log.info("%s in %s processes", what, count)
            for number in range(count):
                self._start(number)
            #: What a process that has loaded the model says of it.
            self._batches: Batches | None = None
            self._known = 0
            while self._batches is None:
                self._listen(None)
        except BaseException:
            self.close()
            raise
        self.lengths = prompts.lengths - self._known
        share, one = int(self.lengths.sum(dtype=np.int64)) // CHUNKS, self._batches.tokens
        #: Tokens of a chunk, at least.
        self._target: int = min(max(share, one), CHUNK_BATCHES * one)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove their files."""
        for worker in self._workers.values():
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._workers.clear()
        self._held.close()

    def score(self, parts: Iterable[tuple[int, slice]], progress: Progress) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, logits) of each part, as they are done; a part is a piece of ``order``, logits float64 (n, 2)."""
        coming = iter(parts)
        while True:
            self._hand_out(coming)
            if not self._open:
                return
            for number in self._listen(progress):
                part = self._open.pop(number)
                yield number, part.logits

    def _hand_out(self, coming: Iterator[tuple[int, slice]]) -> None:
        """Give every process that has loaded the model its next chunks."""
        while len(self._pending) <= AHEAD * self._count and (more := next(coming, None)):
            self._cut(*more)
        ready = [worker for worker in self._workers.values() if worker.ready]
        for most in range(1, AHEAD + 1):
            for worker in ready:
                # The last chunks wait for whoever is free, not behind another.
                if len(worker.chunks) < most and len(self._pending) > (most - 1) * len(ready):
                    self._give(worker, self._pending.popleft())

    def _give(self, worker: _Worker, chunk: _Chunk) -> None:
        worker.chunks.append(chunk)
        try:
            worker.connection.send((chunk.start, chunk.stop))
        except OSError:  # it is dead: the next look at its connection says so
            log.debug("process %s does not listen", worker.number)

    def _cut(self, number: int, place: slice) -> None:
        """Cut a part into chunks, which end where batches do."""
        assert self._batches
        lengths = self.lengths[self.order[place]]
        ends, tokens, done = [], 0, 0
        for batch in self._batches.split(lengths):
            tokens += int(lengths[batch].sum())
            done += len(batch)
            if tokens >= self._target or done == len(lengths):
                ends.append(done)
                tokens = 0
        chunks = [
            _Chunk(number, place.start + start, place.start + stop)
            for start, stop in zip([0, *ends], ends, strict=False)
        ]
        self._open[number] = _Part(place, np.empty((len(lengths), 2)), set(chunks))
        self._pending.extend(chunks)

    def _listen(self, progress: Progress | None) -> list[int]:
        """Wait for messages and take them in; returns the parts that are complete now."""
        complete = []
        by_connection = {worker.connection: worker for worker in self._workers.values()}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                what, value = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(worker, progress)
                continue
            if what == "refused":
                line, code = value
                raise UserError(line, code=code)
            if what == "ready":
                tokens, pad_to, self._known = value
                self._batches = self._batches or Batches(tokens, pad_to)
                worker.ready = True
            elif what == "tokens":
                self._count_tokens(worker, value, progress)
            else:
                complete += self._take(worker, value, progress)
        return complete

    def _count_tokens(self, worker: _Worker, tokens: int, progress: Progress | None) -> None:
        worker.counted += tokens
        if progress:
            progress.advance(tokens)

    def _take(self, worker: _Worker, logits: np.ndarray, progress: Progress | None) -> list[int]:
        """Take the logits of a worker's first chunk; return the part's number where it is complete."""
        chunk = worker.chunks.popleft()
        self._deaths[worker.number] = 0
        total = int(self.lengths[self.order[chunk.start : chunk.stop]].sum())
        self._count_tokens(worker, total - worker.counted, progress)
        worker.counted = 0
        part = self._open[chunk.part]
        part.logits[chunk.start - part.place.start : chunk.stop - part.place.start] = logits
        part.open.remove(chunk)
        return [] if part.open else [chunk.part]

    # --- life and death ---------------------------------------------------------------------------------------------------

    def _start(self, number: int) -> None:
        # Not forked: CUDA does not survive that, and this process has threads.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        threads = max(cpus.available() // self._count, 1)
        arguments = (self._checkpoint, number, threads, str(self._folder), theirs)
        process = context.Process(target=work, args=arguments, name=f"scoring-{number}", daemon=True)
        process.start()
        theirs.close()
        self._workers[number] = _Worker(number, process, ours)

    def _bury(self, worker: _Worker, progress: Progress | None) -> None:
        """Put back what a dead process had, and start another in its place."""
        worker.process.join()
        worker.connection.close()
        del self._workers[worker.number]
        self._deaths[worker.number] += 1
        said = _ending(worker.process.exitcode)
        self._count_tokens(worker, -worker.counted, progress)
        self._pending.extendleft(reversed(worker.chunks))
        if worker.chunks:
            log.warning("process %s %s: what it had at hand is scored again", worker.number, said)
            worker.chunks[0].deaths += 1
            if worker.chunks[0].deaths == DEATHS:
                raise UserError(self._deadly(worker.chunks[0], said), code="process-died")
        else:
            log.warning("process %s %s before it scored anything", worker.number, said)
        if self._deaths[worker.number] < DEATHS:
            self._start(worker.number)
        elif self._workers:
            log.warning("process %s is given up: the others go on without it", worker.number)
        else:
            raise UserError(
                f"{self._checkpoint.reference}: {DEATHS} processes in a row died, the last one {said}, and none is left: most "
                f"likely {self._count} copies of the model need more memory than there is; lower {self._setting}, or "
                "give the stage more memory (what they said is above)",
                code="process-died",
            )

    def _deadly(self, chunk: _Chunk, said: str) -> str:
        longest = int(self.lengths[self.order[chunk.start]])
        return (
            f"{self._checkpoint.reference}: {DEATHS} processes died of the same {chunk.stop - chunk.start} pairs (places "
            f"{chunk.start} to {chunk.stop - 1} by length, prompts of up to {longest} tokens), the last one {said}: most "
            f"likely too little memory; lower scoring.batch_tokens or {self._setting}, or give the stage more memory "
            "(what they said is above)"
        )


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with status {code}"


# --- in the process ---------------------------------------------------------------------------------------------------


class _Reporter:
    """Tells the parent of scored tokens, now and then."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._tokens, self._last = connection, 0, time.monotonic()

    def advance(self, amount: int) -> None:
        self._tokens += amount
        if time.monotonic() - self._last >= PAUSE:
            self._connection.send(("tokens", self._tokens))
            self.reset()

    def reset(self) -> None:
        self._tokens, self._last = 0, time.monotonic()


def work(checkpoint: Checkpoint, number: int, threads: int, folder: str, connection: Connection) -> None:
    """Load the model, then score the places that the parent names until it has no more: the work of a process.

    Errors that a person can mend go to the parent; with any other the process dies, and the parent decides.
    """
    lifeline.end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: the parent ends this one
    logging.basicConfig(level=logging.INFO if number == 0 else logging.WARNING, format="%(message)s")
    import torch

    if not variables.threads_are_set():
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(number)
    try:
        with _one_at_a_time(Path(folder)):
            ranker = load_ranker(checkpoint.reference, checkpoint.scoring, checkpoint.revision, tell=False)
        job = ranker.job(ranker.reader.open(Path(folder)))
        order = arrays.mapped(Path(folder), "order")
        connection.send(("ready", (ranker.batches.tokens, ranker.batches.pad_to, ranker.known)))
        reporter = _Reporter(connection)
        while True:
            start, stop = connection.recv()
            reporter.reset()
            connection.send(("logits", job.score(order[start:stop], reporter)))
    except UserError as error:
        connection.send(("refused", (str(error), error.code)))
    except (EOFError, BrokenPipeError):
        return  # the parent is gone


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Only one process loads a model: the host's memory holds one copy besides those on the devices.

    The lock is the file's, so it is free when its holder dies.
    """
    with (folder / "loading").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
