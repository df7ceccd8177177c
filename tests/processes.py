"""How a test starts a run, and sees what is alive on this machine because of its folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

#: `make run`, without make: options follow.
MAKE_RUN = [sys.executable, "-m", "inranker_flow", "run", "--runner=process"]


def alive(folder: Path) -> dict[int, str]:
    """Id -> command line of every process whose environment, current folder or command line names ``folder``."""
    wanted, found = os.fsencode(folder), {}
    ours = {os.getpid(), os.getppid()}
    for process in Path("/proc").glob("[0-9]*"):
        number = int(process.name)
        try:
            command = (process / "cmdline").read_bytes()
            told = (process / "environ").read_bytes(), command, os.fsencode((process / "cwd").readlink())
        except OSError:  # another user's, or gone meanwhile
            continue
        if number not in ours and any(wanted in each for each in told):
            found[number] = command.replace(b"\0", b" ").decode(errors="replace")[:300]
    return found


def wait_for(true: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until ``true()``, however long this machine takes: the test's own limit ends it. ``process`` must not end first."""
    while not true():
        assert process is None or process.poll() is None, process.communicate()  # type: ignore[union-attr]
        time.sleep(0.05)
