"""Processes that begin with their libraries loaded: forked from one that has imported them once (`preloaded`).

Most of a small run is the start of its tasks: torch, transformers and MLflow take seconds to import. The standard library's
fork server (`multiprocessing.forkserver`) imports them while the run is prepared. Each task is still a process of its own,
with an environment of its own, and ends with all that it holds.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from inranker_flow.environment import changes

_PRELOADED = "inranker_flow.commands.preloaded"


def possible() -> bool:
    """Return whether tasks may be forked here: on Linux, and not beside a GPU, whose driver a library's import may wake."""
    return sys.platform == "linux" and not any(Path("/dev").glob("nvidia[0-9]*"))


def prepare(temporary: Path) -> None:
    """Begin to import what tasks need, in a process of its own, and return at once; its socket lies in ``temporary``.

    Its environment is the one of now: a library that reads a variable while it is imported reads these.
    """
    # Otherwise multiprocessing makes a folder of its own there, and looks for it after the run has removed it.
    multiprocessing.current_process()._config["tempdir"] = str(temporary)  # type: ignore[attr-defined]
    multiprocessing.set_forkserver_preload([_PRELOADED])
    forkserver.ensure_running()


def start(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], held: int
) -> tuple[BaseProcess, Connection]:
    """Start ``python -m module arguments`` with ``environment``; returns the process and what it prints.

    ``held``: a file descriptor that stays open in the process, whose lock it shares.
    """
    context = multiprocessing.get_context("forkserver")
    printed, output = context.Pipe(duplex=False)
    lock = Connection(os.dup(held), writable=False)
    # A shell starts its background jobs so.
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    process = context.Process(target=_work, args=(module, list(arguments), dict(environment), output, lock, deaf))
    process.start()
    output.close()
    lock.close()
    return process, printed


def _work(
    module: str, arguments: list[str], environment: dict[str, str], output: Connection, lock: Connection, deaf: bool
) -> None:
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else signal.default_int_handler)
    changes.replace(environment)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # A process of multiprocessing ends without them.
        atexit._run_exitfuncs()
        lock.close()
