"""The processes of a local run's tasks: they hold the folder's lock, and end with the run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from inranker_flow import lifeline
from inranker_flow.commands import folder, forked
from inranker_flow.commands.command import TERMINATED, stopping
from inranker_flow.environment import changes


class Processes:
    """Starts the tasks of ``run`` until it is told to stop."""

    def __init__(self, run: folder.Run, also: Callable[[], object] = lambda: None) -> None:
        """``also``: what else is to be stopped."""
        self._run, self._also, self.over = run, also, False

    def start(self, module: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
        """Run ``python -m module arguments`` to its end, print its lines as they come, return its exit status.

        ``variables`` are added to the environment.
        """
        if self.over:
            return TERMINATED
        environment = changes.for_child(variables or {})
        return (self._fork if forked.possible() else self._execute)(module, arguments, environment)

    def _fork(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
        task, printed = forked.start(module, arguments, environment, self._run.lock)
        with printed, open(printed.fileno(), encoding="utf-8", errors="backslashreplace", closefd=False) as lines:
            self._follow(lines, task.kill)
            task.join()
        return task.exitcode or 0

    def _execute(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
        with subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, bufsize=1, errors="backslashreplace", env=environment,
            pass_fds=[self._run.lock],
        ) as task:  # fmt: skip
            assert task.stdout
            self._follow(task.stdout, task.kill)
            return task.wait()

    def _follow(self, lines: Iterable[str], kill: Callable[[], None]) -> None:
        """Print what a task prints; ``kill`` it if all is over already."""
        if self.over:
            kill()
        try:
            for line in lines:
                print(line, end="")
        except BaseException:  # nothing is read any more, so the task would wait for ever
            self.stop()
            raise

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
