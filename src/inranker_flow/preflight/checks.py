"""A check, its result, and how all of them are run at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inranker_flow import redaction
from inranker_flow.errors import UserError
from inranker_flow.markdown import escape

log = logging.getLogger(__name__)

#: Seconds that the checks may wait for others: servers, the network. Imports and a busy machine do not count.
DEADLINE = 45.0
#: Seconds between two looks whether they wait, and the seconds of this process' CPU time in them that are no waiting.
TICK, WORK = 0.1, 0.005


class Skipped(Exception):
    """A check that does not apply here, or that cannot be made from here; the message says why."""


@dataclass(frozen=True)
class Check:
    """``run`` returns what it found, or raises :class:`Skipped`, or :class:`UserError` with the fix."""

    name: str
    run: Callable[[], str]


@dataclass(frozen=True)
class Result:
    """The result of the check ``name``."""

    name: str
    result: Literal["ok", "skipped", "FAILED"]
    detail: str


def run_checks(checks: Sequence[Check]) -> list[Result]:
    """Return all results, in the order of ``checks``; the checks run at the same time, and a slow one cannot hold the stage."""
    found: list[Result | None] = [None] * len(checks)

    def work(i: int) -> None:
        found[i] = _result(checks[i])

    # Daemons, unlike a pool's threads, do not keep the process alive when a server never answers.
    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(checks))]
    for thread in threads:
        thread.start()
    waited, before, used = 0.0, time.monotonic(), time.process_time()
    while waited < DEADLINE and (alive := [thread for thread in threads if thread.is_alive()]):
        alive[0].join(TICK)
        now, cpu = time.monotonic(), time.process_time()
        # Of a long pause, in which others had the processor, no more is counted than was slept.
        waited += min(now - before, TICK) if cpu - used < WORK and not _busy() else 0.0
        before, used = now, cpu
    late = f"no answer within {DEADLINE:g} s; check the network and that server"
    return [each or Result(check.name, "FAILED", late) for check, each in zip(checks, found, strict=True)]


def _busy() -> bool:
    """Return whether another thread of this process computes, reads from the disk, or would if the machine were less busy."""
    own = str(threading.get_native_id())
    for task in Path("/proc/self/task").glob("*"):
        # A thread may end while we look.
        with suppress(OSError):
            if task.name != own and (task / "stat").read_text().rpartition(")")[2].split()[0] in ("R", "D"):
                return True
    return False


def _result(check: Check) -> Result:
    try:
        return Result(check.name, "ok", redaction.redact(check.run()))
    except Skipped as reason:
        return Result(check.name, "skipped", redaction.redact(str(reason)))
    except UserError as error:
        return Result(check.name, "FAILED", " ".join(redaction.redact(str(error)).split()))
    except Exception as error:
        log.exception("%s: unexpected", check.name)
        text = redaction.line(f"{type(error).__name__}: {error}")
        return Result(check.name, "FAILED", f"{text} (unexpected: the traceback is in the log; report it)")


def markdown(results: Sequence[Result]) -> str:
    """Return the results as a Markdown list, failures first: KFP's panel is too narrow for a table of long addresses."""
    rows = sorted(results, key=lambda each: each.result != "FAILED")
    return "".join(f"- **{escape(each.name)}**: {each.result}. {escape(each.detail)}\n" for each in rows)
