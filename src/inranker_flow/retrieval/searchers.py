"""Processes that search one index side by side; they share it by mapping it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from inranker_flow import lifeline
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.errors import UserError
from inranker_flow.retrieval.bm25 import BM25

Task = TypeVar("Task")
Result = TypeVar("Result")

#: Tasks handed out for each process: none waits, and results do not pile up.
_AHEAD = 4


class Searchers:
    """Calls ``function(bm25, task)`` in ``processes`` processes; with one, in this one."""

    def __init__(self, folder: Path, config: RetrieveConfig, processes: int) -> None:
        self.processes = processes
        self._bm25 = BM25.load(folder, config) if processes == 1 else None
        self._pool = None
        if processes > 1:
            # Not forked: this process has threads (Arrow's, boto3's), whose locks a fork would copy as they are.
            self._pool = ProcessPoolExecutor(processes, get_context("spawn"), _open, (folder, config))

    def map(self, function: Callable[[BM25, Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield results in the order of the tasks; ``function`` must be a module's own.

        Raises :class:`UserError` where a process is killed.
        """
        if self._pool is None:
            assert self._bm25 is not None
            for task in tasks:
                yield function(self._bm25, task)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(_call, function, task))
                if len(waiting) >= _AHEAD * self.processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                f"a search process was killed, most likely for want of memory; {self.processes} of them share the index, "
                "and each needs some hundred MB more: give the stage more memory, or fewer CPUs",
                code="process-died",
            ) from error

    def __enter__(self) -> Searchers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; what waits is not done any more."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


_opened: BM25 | None = None


def _open(folder: Path, config: RetrieveConfig) -> None:
    global _opened
    lifeline.end_with_parent()
    _opened = BM25.load(folder, config)


def _call(function: Callable[[BM25, Any], Result], task: Any) -> Result:
    assert _opened is not None
    return function(_opened, task)
