"""What `make run` shows on the terminal: the stages' own log lines as they come, tables at the end."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from inranker_flow.errors import UserError
from inranker_flow.redaction import redact
from inranker_flow.storage.local import disk_errors

#: A line that `inranker_flow.execution.run_stage.start_logging` wrote.
_STAGE_LINE = re.compile(r"\d\d:\d\d:\d\d \[[^\]]+\] ")


class Tee(io.TextIOBase):
    """Everything goes to the log file, the stages' lines to the terminal too (KFP's own are for the file); secrets nowhere."""

    def __init__(self, terminal: TextIO, log: TextIO, everything: bool) -> None:
        self._terminal, self._log, self._everything = terminal, log, everything

    def write(self, text: str) -> int:
        shown = redact(text)
        with disk_errors(self._log.name):
            self._log.write(shown)
        if self._everything:
            self._terminal.write(shown)
        elif _STAGE_LINE.match(text):
            self._terminal.write(shown)
            self._terminal.flush()
        return len(text)

    def flush(self) -> None:
        with disk_errors(self._log.name):
            self._log.flush()
        self._terminal.flush()


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the stages' records of one run, in the order in which they ended. Raises :class:`UserError` for a damaged one.

    A last line without its end is of a stage that was killed while it wrote that.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            found.append({**event, "stage": str(event["stage"]), "dataset": event["dataset"]})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} line {number}: no record of a stage; run again: what is finished is kept",
                code="record-damaged",
            ) from error
    return found


def means_of(summary: Mapping[str, Any], measure: str) -> dict[str, dict[str, float]]:
    """Return the means of ``measure`` in an evaluation's ``summary``, by data set and system."""
    return {
        name: {system: each["means"][measure] for system, each in found["systems"].items()}
        for name, found in summary["datasets"].items()
    }


def results_table(measure: str, systems: Sequence[str], means: Mapping[str, Mapping[str, float]]) -> str:
    """Return rows data sets, columns ``systems``: ``means`` of ``measure``, by data set and system."""
    rows = [[measure, *systems]]
    for dataset, found in means.items():
        rows.append([dataset, *(f"{found[system]:.4f}" if system in found else "-" for system in systems)])
    return table(rows)


def stages_table(stages: Sequence[str], events: Iterable[Mapping[str, Any]]) -> str:
    """Return seconds for each stage, summed over its tasks.

    ``reused``: the tasks ran, and all found their results in the store; ``cached``: KFP ran none.
    """
    seconds: dict[str, list[float]] = {}
    asked = set()
    for event in events:
        asked.add(event["stage"])
        if not event.get("reused"):
            seconds.setdefault(event["stage"], []).append(event["seconds"])
    rows = [["stage", "seconds", "tasks run"]]
    for stage in stages:
        ran = seconds.get(stage, [])
        rows.append([stage, f"{sum(ran):.1f}" if ran else "reused" if stage in asked else "cached", str(len(ran))])
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return Left-aligned first column, right-aligned others, a line under the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
