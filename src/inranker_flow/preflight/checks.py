"""A check, its result, and how all of them are run at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from inranker_flow.errors import UserError

log = logging.getLogger(__name__)

#: Seconds that all checks together may take.
DEADLINE = 45.0


class Skipped(Exception):
    """A check that does not apply here, or that cannot be made from here; the message says why."""


@dataclass(frozen=True)
class Check:
    """``run`` returns what it found, or raises :class:`Skipped`, or :class:`UserError` with the fix."""

    name: str
    run: Callable[[], str]


@dataclass(frozen=True)
class Result:
    """What came of the check ``name``."""

    name: str
    result: Literal["ok", "skipped", "FAILED"]
    detail: str


def run_checks(checks: Sequence[Check]) -> list[Result]:
    """All results, in the order of ``checks``; the checks run at the same time, and a slow one cannot hold the stage."""
    found: list[Result | None] = [None] * len(checks)

    def work(i: int) -> None:
        found[i] = _result(checks[i])

    # Daemons, unlike a pool's threads, do not keep the process alive when a server never answers.
    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(checks))]
    end = time.monotonic() + DEADLINE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"no answer within {DEADLINE:g} s; check the network and that server"
    return [each or Result(check.name, "FAILED", late) for check, each in zip(checks, found, strict=True)]


def _result(check: Check) -> Result:
    try:
        return Result(check.name, "ok", check.run())
    except Skipped as reason:
        return Result(check.name, "skipped", str(reason))
    except UserError as error:
        return Result(check.name, "FAILED", " ".join(str(error).split()))
    except Exception as error:
        log.exception("%s: unexpected", check.name)
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Result(check.name, "FAILED", f"{text} (unexpected: the traceback is in the log; report it)")


def markdown(results: Sequence[Result]) -> str:
    """The results as a Markdown table, failures first."""
    rows = sorted(results, key=lambda each: each.result != "FAILED")
    lines = ["| check | result | detail |", "|---|---|---|"]
    lines += [f"| {_cell(each.name)} | {each.result} | {_cell(each.detail)} |" for each in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
