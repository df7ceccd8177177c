"""What all commands share: how they read their options, and how they end.

A command's ``main`` returns its status and raises what goes wrong; :func:`command` is the one place that catches. Whatever
it is, a person reads one line: ``FAILED: ...``, ``INTERRUPTED: ...`` or ``TERMINATED: ...``, without passwords.
"""

from __future__ import annotations

import argparse
import errno
import functools
import os
import re
import select
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from inranker_flow import error_codes
from inranker_flow.commands.screen import wrapped
from inranker_flow.errors import UserError, of_system
from inranker_flow.redaction import hidden_in_output, redact

#: Exit status: bad input; a stage failed; a reader of the output that has gone; Ctrl-C; SIGTERM.
REFUSED, FAILED, BROKEN_PIPE, INTERRUPTED, TERMINATED = 2, 1, 141, 130, 143
#: Characters of a line at most: some libraries say whole pages.
LONGEST = 1500
#: What the libraries below the commands are called in a line: package -> name. Their errors have no common base.
LIBRARIES = {
    "mlflow": "MLflow", "sqlalchemy": "MLflow's database", "sqlite3": "MLflow's database", "alembic": "MLflow's database",
    "botocore": "S3", "boto3": "S3", "s3transfer": "S3", "kfp": "KFP", "kfp_server_api": "KFP", "kfp_kubernetes": "KFP",
    "kubernetes": "Kubernetes", "urllib3": "the network", "requests": "the network", "http": "the network",
    "ssl": "the network", "docker": "docker", "yaml": "YAML", "json": "JSON", "google": "Kubernetes",
    "huggingface_hub": "the hub",
}  # fmt: skip


class Terminated(BaseException):
    """The process was told to end: SIGTERM, or a terminal that was closed."""


class Parser(argparse.ArgumentParser):
    """Options of a command. What is wrong with them is a :class:`UserError` that names make's variable."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Say it in the commands' way, instead of usage and all."""
        named = re.sub(r"^argument (?:-\w/)?--([a-z-]+): ", lambda found: f"{_variable(found[1])}: ", message)
        raise UserError(f"{self.prog}: {named}", code="command-line")


def _variable(option: str) -> str:
    return {"settings": "SET", "only": "IMAGES"}.get(option, option.replace("-", "_").upper())


#: Called in a signal's handler, before anything is unwound: what waits for child processes would wait for ever.
_when_stopped: list[Callable[[], None]] = []
_log: list[Path] = []


@contextmanager
def stopping(action: Callable[[], None]) -> Iterator[None]:
    """Within the block a signal that ends the command calls ``action`` first."""
    _when_stopped.append(action)
    try:
        yield
    finally:
        _when_stopped.remove(action)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Within the block the traceback of an unexpected error is written to the end of ``path``."""
    _log.append(path)
    try:
        yield
    finally:
        _log.remove(path)


def listing(main: Callable[..., int]) -> Callable[..., int]:
    """As :func:`command`, for one that only shows something: a reader who has seen enough (``| head``) is no failure, of
    which make would complain."""
    return command(main, broken_pipe=0)


def command(main: Callable[..., int], broken_pipe: int = BROKEN_PIPE) -> Callable[..., int]:
    """Let ``main`` end with a status and at most one line on stderr, whatever happens in it."""

    @functools.wraps(main)
    def guarded(arguments: list[str] | None = None) -> int:
        _open_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a name that is no UTF-8 must not break the line that says so
                stream.reconfigure(errors="backslashreplace")
        with hidden_in_output(), _signals():
            try:
                status = main(arguments)
                sys.stdout.flush()
                return status
            except KeyboardInterrupt as error:
                return _say("\nINTERRUPTED", _kept(error), INTERRUPTED)
            except Terminated as error:
                return _say("\nTERMINATED", _kept(error), TERMINATED)
            except Exception as error:
                if isinstance(error, OSError) and error.errno == errno.EPIPE and _reader_gone():
                    return broken_pipe
                return _say("FAILED", one_line(error), REFUSED)

    return guarded


def _open_streams() -> None:
    """Give a command that was started without them (``>&-``) streams that lead nowhere.

    Else the next file that it opens, a lock or a database, would be the standard output of whatever it starts.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115


def _kept(error: BaseException) -> str:
    """Return the line about the work that was begun."""
    return str(error) or "what is finished is kept; the same command continues"


def _say(word: str, text: str, status: int) -> int:
    with suppress(OSError):  # nobody reads it: the status is all that is left to say
        sys.stdout.flush()
    with suppress(OSError):
        print(wrapped(f"{word}: {redact(text)}", sys.stderr), file=sys.stderr, flush=True)
    return status


def one_line(error: BaseException) -> str:
    """Return an error as one line. If it is nobody's input, the line names the file with the traceback."""
    if isinstance(error, UserError):
        return error_codes.with_row(_short(str(error)), error.code)
    if isinstance(error, OSError) and type(error).__module__ == "builtins":
        return _short(of_system(error))
    library = LIBRARIES.get(type(error).__module__.partition(".")[0])
    text = str(error).strip() or type(error).__name__
    said = f"{library}: {text}" if library else f"{type(error).__name__}: {text}"
    return f"{_short(said, LONGEST - 300)} ({_keep_traceback(error)})"


def _short(text: str, most: int = LONGEST) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]} ..."


def _keep_traceback(error: BaseException) -> str:
    """Write the traceback to the run's log, or to a file of its own; returns where it is."""
    text = redact("".join(traceback.format_exception(error)))
    try:
        if _log:
            with open(_log[-1], "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"\n{text}")
            return f"the traceback is in {_log[-1]}"
        handle, name = tempfile.mkstemp(prefix="inranker-", suffix=".traceback")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as full:
        return f"its traceback cannot be kept: {full.strerror}"
    return f"the traceback is in {name}"


def _reader_gone() -> bool:
    """Return whether nobody reads the output any more (``make runs | head``); a server that hung up is another matter."""
    for stream in (sys.stdout, sys.stderr):
        try:
            number = stream.fileno()
        except (OSError, ValueError):
            continue
        waiting = select.poll()
        waiting.register(number, 0)
        if any(event & select.POLLERR for _, event in waiting.poll(0)):
            # What is still in the buffer goes nowhere, without Python's own complaint at its end.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
            return True
    return False


@contextmanager
def _signals() -> Iterator[None]:
    """Turn the signals that end a command into exceptions, once; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = False

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal ended
        if ended:
            os._exit(128 + number)
        ended = True
        for action in reversed(_when_stopped):
            try:
                action()
            except Exception as error:  # whatever it is, the command ends
                os.write(2, f"\n{redact(one_line(error))}\n".encode(errors="backslashreplace"))
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    before: dict[int, Any] = {}
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and jobs in the background
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler if handler is not None else signal.SIG_DFL)
