"""The processes of a local run's tasks: they hold the folder's lock, and end with the run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from inranker_flow import lifeline
from inranker_flow.commands import folder
from inranker_flow.commands.command import TERMINATED, stopping
from inranker_flow.environment import changes


class Processes:
    """Starts the tasks of ``run`` until it is told to stop."""

    def __init__(self, run: folder.Run, also: Callable[[], object] = lambda: None) -> None:
        """``also``: what else is to be stopped."""
        self._run, self._also, self.over = run, also, False

    def start(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
        """Run ``command`` to its end, print its lines as they come, return its exit status; ``variables`` are added to the
        environment."""
        if self.over:
            return TERMINATED
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
            errors="backslashreplace", env=changes.for_child(variables or {}), pass_fds=[self._run.lock],
        ) as task:  # fmt: skip
            if self.over:
                task.kill()
            assert task.stdout
            try:
                for line in task.stdout:
                    print(line, end="")
            except BaseException:  # nothing is read any more, so the task would wait for ever
                self.stop()
                raise
            return task.wait()

    def stop(self) -> None:
        """End all tasks, and start no more."""
        self.over = True
        self._run.let_go()
        lifeline.end(self._run.file)
        self._also()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Stop within the block when a signal ends the command."""
        with stopping(self.stop):
            yield
