"""Processes that end with the run that started them, however it ends: SIGKILL to it, too.

A local run holds a lock on a file of its own and names that file in ``INRANKER_RUN_FILE``, which every process below it
inherits. Each of them that imports this package waits for the lock in a thread. The kernel gives it when the run is gone.
Where nobody sets the variable (a pod has one process, and its end is the pod's) nothing happens.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from inranker_flow.environment import variables


def follow() -> None:
    """End this process when the run that ``INRANKER_RUN_FILE`` names has ended."""
    path = variables.run_file()
    if path:
        _in_thread(lambda: _wait_for(path))


def end_with_parent() -> None:
    """End this process, which multiprocessing started, when its parent has ended, in the middle of whatever it does."""
    parent = multiprocessing.parent_process()
    assert parent
    _in_thread(parent.join)


def _wait_for(path: str) -> None:
    """Return when the run is gone. Raises where that cannot be known: a file system without locks."""
    try:
        with open(path, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return  # it has ended already, and was tidied up


def _in_thread(wait: Callable[[], object]) -> None:
    def watch() -> None:
        try:
            wait()
        except OSError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def processes(path: Path) -> list[int]:
    """Return ids of the living processes that the run with the file ``path`` has started, directly or not.

    Found by their environment in /proc; where there is none (macOS) the list is empty.
    """
    wanted = f"{variables.RUN_FILE}={path}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            named = wanted in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # another person's, or gone meanwhile
            continue
        if named and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def end(path: Path) -> list[int]:
    """Kill the processes of the run with the file ``path``; returns those that there were."""
    found = processes(path)
    for number in found:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return found
