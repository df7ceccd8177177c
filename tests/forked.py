"""Processes for tests that begin with their libraries loaded: forked from one that has imported them once (`preloaded`).

torch, transformers and MLflow take seconds to import. A test that needs another process for what it does (it is killed, it has
scratch of its own, it works at the same time) need not pay for that. What an interpreter imports, and what it needs for it, is
seen in one that is started anew.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TextIO

import pytest

from inranker_flow.environment import changes

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.preloaded"])

#: As it is before any test: libraries read it while they are imported.
_ENVIRONMENT = dict(os.environ)


@contextmanager
def _as_before_any_test() -> Iterator[None]:
    now = dict(os.environ)
    changes.replace(_ENVIRONMENT)
    try:
        yield
    finally:
        changes.replace(now)


def process(target: Callable[..., object], *arguments: object, **options: Any) -> BaseProcess:
    """A process that calls ``target`` with the environment of now; it is not started yet."""
    with _as_before_any_test():
        forkserver.ensure_running()
    return context.Process(target=_enter, args=(dict(os.environ), target, arguments), **options)


def _enter(environment: Mapping[str, str], target: Callable[..., object], arguments: tuple[object, ...]) -> None:
    changes.replace(environment)
    if "OMP_NUM_THREADS" in environment and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    target(*arguments)


@dataclass(frozen=True)
class Script:
    """A Python script in a process of its own, and the other ends of its standard input and output."""

    process: BaseProcess
    stdin: TextIO
    stdout: TextIO

    def poll(self) -> int | None:
        """Return its status where it has ended."""
        return self.process.exitcode

    def wait(self) -> int:
        """Wait for its end and return its status."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()


def start(script: str, *arguments: object, **environment: str) -> Script:
    """Start what ``python -c script arguments`` would, with these variables beside those of now. Errors are printed, too."""
    read, out = os.pipe()
    given, write = os.pipe()
    ends = Connection(given, writable=False), Connection(out, readable=False)
    with changes.temporarily(environment):
        started = process(_run, script, [str(each) for each in arguments], *ends, daemon=True)
    started.start()
    for each in ends:
        each.close()
    return Script(started, os.fdopen(write, "w"), os.fdopen(read))


def run(script: str, *arguments: object, **environment: str) -> tuple[int, str]:
    """Run it to its end; returns its status and what it printed."""
    started = start(script, *arguments, **environment)
    with started.stdin, started.stdout:
        printed = started.stdout.read()
    return started.wait(), printed


def _run(script: str, arguments: list[str], given: Connection, out: Connection) -> None:
    for stream in (1, 2):
        os.dup2(out.fileno(), stream)
    out.close()
    sys.stdin = os.fdopen(os.dup(given.fileno()))
    sys.argv = ["-c", *arguments]
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})


class _Quick:
    """Stands for a context of multiprocessing whose processes begin with their libraries loaded."""

    Pipe = staticmethod(context.Pipe)

    @staticmethod
    def Process(target: Callable[..., object], args: tuple[object, ...], name: str, daemon: bool) -> BaseProcess:  # noqa: N802
        return process(target, *args, name=name, daemon=daemon)


@pytest.fixture
def quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that score begin with their libraries loaded. (As they are started by themselves:
    integration/test_labelling_processes.py.)"""
    monkeypatch.setattr("inranker_flow.scoring.processes.multiprocessing.get_context", lambda _: _Quick)
