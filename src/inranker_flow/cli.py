"""`inranker`: every command, each in a module of its own; make's targets are lines over it.

A command prints its results on standard output and ends with status 0. Otherwise it prints one line on standard error,
and its status says what happened: 2 for bad input, 1 for a stage that failed, 130 for Ctrl-C, 143 for SIGTERM.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from inranker_flow import __version__


@dataclass(frozen=True)
class Command:
    """One row of the table: the modules that may hold its ``main``, the first that is there; ``first``: its first
    arguments."""

    about: str
    modules: tuple[str, ...]
    first: tuple[str, ...] = ()


def _library(name: str, about: str, *first: str) -> Command:
    return Command(about, (f"inranker_flow.commands.{name}",), first)


def _checkout(name: str, about: str, *first: str) -> Command:
    return Command(about, (f"pipelines.{name}",), first)


COMMANDS = {
    "run": _library("run", "run a whole pipeline on this machine"),
    "collection": _library("collection", "show what a run would read of a collection, and write it as a BEIR folder"),
    "plan": Command("say what a run will take, before it runs", ("pipelines.plan", "inranker_flow.commands.plan")),
    "rank": _library("rank", "rank passages for queries with a student"),
    "try": _library("try_query", "search the last run's corpus: the first stage's best beside the champion's"),
    "serve": _library("serve", "serve a reranker over HTTP, by default the champion"),
    "serving": _library("serving", "say what a running server serves"),
    "verify": _library("verify", "compare a running server with the evaluation of the last run"),
    "evaluate": _library("evaluate", "measure rerankers on a collection with judgements"),
    "judge": _library("judge", "compare two runs or models by a language model's grades"),
    "settings": _library("settings", "list every setting: type, default, range, meaning"),
    "history": _library("champion", "say which version of a model served when, and why", "history"),
    "promote": _library("champion", "let a version serve, by hand", "promote"),
    "rollback": _library("champion", "let the version serve that served before", "rollback"),
    "report": _library("report", "open the report of the last local run"),
    "mlflow": _library("mlflow_ui", "open MLflow's UI on a local run's database"),
    "clean": _library("clean", "remove what local runs left"),
    "compile": _checkout("compile", "compile a pipeline for KFP"),
    "submit": _checkout("submit", "start a pipeline on a cluster"),
    "schedule": _checkout("schedule", "start it there by a clock"),
    "unschedule": _checkout("schedule", "end a schedule", "--remove"),
    "runs": _checkout("runs", "list the newest runs on the cluster"),
    "why": Command("say why a run failed, or waits", ("pipelines.why", "inranker_flow.commands.why")),
    "images": _checkout("images", "build the images of the stages", "build"),
    "push": _checkout("images", "push them to a registry", "push"),
    "versions": _checkout("versions", "say which stages' sources have changed"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if given[0] in ("-V", "--version"):
        print(f"inranker-flow {__version__}")
        return 0
    name, *rest = given
    if name not in COMMANDS:
        print(f"FAILED: inranker: no command {name[:80]!r}; there is: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    known = COMMANDS[name]
    module = next((each for each in known.modules if _is_there(each)), "")
    if not module:
        print(
            f"FAILED: inranker {name}: needs a checkout of InRanker Flow (its folder pipelines/ on PYTHONPATH); make {name} "
            "there",
            file=sys.stderr,
        )
        return 2
    status: int = importlib.import_module(module).main([*known.first, *rest])
    return status


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _help() -> str:
    here = {name: each for name, each in COMMANDS.items() if any(map(_is_there, each.modules))}
    rows = "\n".join(f"  {name:<11} {each.about}" for name, each in here.items())
    return (
        f"usage: inranker COMMAND [options]\n\n{rows}\n\n"
        "inranker COMMAND --help lists its options. Messages name an option as make's variable: RUN_DIR is --run-dir."
    )


def entry() -> None:
    """Run `inranker` as a program: a signal ends it in one line even while a command is still importing."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    sys.exit(main())


def _leave(number: int, _frame: FrameType | None) -> None:
    word, status = ("TERMINATED", 143) if number == signal.SIGTERM else ("INTERRUPTED", 130)
    os.write(2, f"\n{word}: nothing was begun\n".encode())
    os._exit(status)
