"""The form of the table of inputs: what a person typed or a server said, what is printed, and the exit status.

One module of this folder for each area lists its rows in ``INPUTS``; `test_inputs.py` tries all of them. A row acts in a
new, empty current folder. It runs in this process, through the same ``main`` or the same `run_stage` that a person's
command or a pod runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from inranker_flow import cli

#: Stands for every password of the table: no row may print it.
PASSWORD = "s3cret-of-anna"


@dataclass(frozen=True)
class Input:
    """One row.

    ``what`` was done, in a few words; it names the test. ``act`` does it in the empty folder that it is given and returns
    the exit status. ``says``: every part that the output must hold. ``status``: the exit status. ``env``: environment
    variables of the row.
    """

    what: str
    act: Callable[[Path], int]
    says: tuple[str, ...]
    status: int = 2
    env: tuple[tuple[str, str], ...] = ()
    marks: tuple[pytest.MarkDecorator, ...] = ()


def command(name: str, *arguments: str) -> int:
    """Run ``inranker NAME ARGUMENTS`` in this process; returns its exit status."""
    try:
        return cli.main([name, *arguments])
    except SystemExit as ended:  # argparse, and run_stage
        return ended.code if isinstance(ended.code, int) else 1


def stage(function: Callable[..., Any], **arguments: Any) -> int:
    """Run a stage as its KFP component does (`run_stage`); returns the exit status of the pod."""
    from inranker_flow.execution.run_stage import run_stage

    try:
        run_stage(function, tracked=False, **arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


class Artifact:
    """What KFP hands to a component: a path and metadata."""

    def __init__(self, path: Path) -> None:
        self.path, self.uri, self.metadata = str(path), str(path), dict[str, Any]()
