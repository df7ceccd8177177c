"""`make promote`, `make rollback`, `make history`: a person's hand on the champion, and the record of every change.

    inranker promote --version 7 --why "the nightly run hit a full disk"

They work on the registry of ``MLFLOW_TRACKING_URI``, or else on that of the local runs in ``RUN_DIR``.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inranker_flow import reading
from inranker_flow.commands import folder
from inranker_flow.commands.command import Parser, command
from inranker_flow.config.sections import PromoteConfig, ScoringConfig
from inranker_flow.environment import changes, variables
from inranker_flow.errors import UserError
from inranker_flow.model_registry import history, registry, stored_files
from inranker_flow.model_registry.history import Entry, Kind, State
from inranker_flow.model_registry.registry import Version
from inranker_flow.tracking import connection


@command
def main(arguments: list[str] | None = None) -> int:
    """Run promote, rollback or history, whichever the first argument names; returns the exit status."""
    name, *rest = sys.argv[1:] if arguments is None else arguments
    parser = Parser(f"inranker {name}")
    parser.add_argument("--model", default=PromoteConfig.model_name, help="the registered model")
    parser.add_argument("--version", default="", help="promote: number of the version that is to serve")
    parser.add_argument("--why", default="", help="promote, rollback: why, in a sentence")
    parser.add_argument(
        "--run-dir", default=str(folder.DEFAULT), help="whose database is the registry, without a server"
    )
    options = parser.parse_args(rest)
    if name != "history":
        _check_why(name, options.why)
    use_registry(folder.checked(options.run_dir))
    if name == "promote":
        print(promote(options.model, options.version, options.why))
    elif name == "rollback":
        print(rollback(options.model, options.why))
    else:
        print(show(options.model))
    return 0


def promote(model: str, number: str, why: str) -> str:
    """Make version ``number`` of ``model`` the champion and say so.

    Raises :class:`UserError` for a version that is not there, does not load or is not what was registered.
    """
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise UserError(
            f"VERSION: expected the number of a version of {model}, got {number!r}; see: make history",
            code="setting-type",
        )
    version = registry.version(model, str(int(number)))
    serving = registry.champion(model)
    if serving and serving.version == version.version and history.settle(model).serving == version.version:
        return f"{model}: version {version.version} serves already; nothing changed"
    check(version)
    text = _move(version, "MANUAL", why, serving.version if serving else "", expected=None)
    verdict = version.tags.get("inranker.verdict", "")
    if verdict and verdict != "PROMOTE":
        text += f"\nThe gate had said {verdict}: {version.tags.get('inranker.reason', '')}"
    return text


def rollback(model: str, why: str) -> str:
    """Make the version that served before the champion of ``model`` serve again and say so; twice goes further back.

    What is gone, damaged or another model of the same number is skipped. Raises :class:`UserError` where none is left.
    """
    state = history.settle(model)
    skipped: list[str] = []
    for version, why_not in history.leads_back(model, state):
        if version is None:
            skipped.append(why_not)
            continue
        try:
            check(version)
        except stored_files.Damaged as error:
            skipped.append(f"version {str(error).removeprefix(f'models:/{model}/').rpartition('; ')[0]}")
            continue
        text = _move(version, "ROLLBACK", why, state.serving, expected=state.serving)
        return f"{text}; skipped: {'; '.join(skipped)}" if skipped else text
    raise UserError(history.nowhere(model, state, skipped), code="history-nowhere")


def _move(version: Version, kind: Kind, why: str, before: str, expected: str | None) -> str:
    details = {"digest": version.tags.get(registry.DIGEST, "")}
    if not history.move(version, kind, history.person(), why, details, expected):
        raise UserError(
            f"{version.name}: the champion changed a moment ago; look at it (make history) and run again",
            code="champion-changed",
        )
    return f"{version.name}: version {version.version} serves now, in place of {before or 'none'}"


def check(version: Version) -> None:
    """Load a version and score a pair with it: :class:`UserError` where that fails or its weights have changed."""
    from inranker_flow.rankers.loading import load_ranker

    folder = stored_files.fetch(version.reference)
    if reading.of_folder(folder) is None:
        raise UserError(
            f"{version.reference}: not a model of this project: no usable training.json", code="model-foreign"
        )
    ranker = load_ranker(str(folder), reading.scoring_of(folder, ScoringConfig()))
    if not np.isfinite(ranker.score([("a query", "a passage")])).all():
        raise UserError(
            f"{version.reference}: its score of a pair is not a finite number; it may not serve",
            code="scores-not-finite",
        )


def show(model: str) -> str:
    """Return the history of ``model`` as a table, the newest change first, and what serves now."""
    entries = history.read(model)
    state = history.replay(entries)
    serving = registry.champion(model)
    now = f"version {serving.version} of {model} serves" if serving else f"no version of {model} serves"
    if not serving and (gone := history.gone(model)):
        now = gone
    if not entries:
        return f"{now}; no change is recorded yet"
    rows = [["", "when (UTC)", "what", "from", "to", "by", "why"]]
    rows += [_row(entry, state) for entry in reversed(entries)]
    known = registry.versions(model)
    served = dict.fromkeys(history.Place(each.target, each.details.get("digest", "")) for each in entries)
    lost = dict.fromkeys(filter(None, (history.problem(place, known) for place in served)))
    told = f"cannot serve again: {'; '.join(lost)}\n" if lost else ""
    text = f"{_table(rows)}\n\n{told}{now}"
    if now.endswith(" serves") and (serving.version if serving else "") != state.serving:
        if state.last and not state.last.applied:
            text += f"; the change to version {state.serving} was interrupted: run it again, or any other change, to finish it"
        else:
            text += ": its alias was moved outside of this project; the next change records that"
    return text


def _row(entry: Entry, state: State) -> list[str]:
    when = datetime.datetime.fromtimestamp(entry.when / 1000, datetime.UTC)
    late = "(came too late, changed nothing) " if entry.number in state.lost else ""
    return [
        str(entry.number),
        f"{when:%Y-%m-%d %H:%M:%S}",
        entry.kind,
        entry.source or "-",
        entry.target or "-",
        entry.who,
        f"{late}{entry.why}",
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return the text columns: all to the left, the last as long as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _check_why(command: str, why: str) -> None:
    if not why.strip():
        raise UserError(
            f'WHY: say why, it is kept in the history: make {command} ... WHY="..."', code="setting-missing"
        )


def use_registry(run_dir: Path) -> None:
    """Let MLflow use the registry of the environment, or else that of the local runs in ``run_dir``.

    Raises :class:`UserError` where there is neither.
    """
    if variables.tracking_uri():
        return
    database = run_dir / "mlflow.db"
    if not database.is_file():
        raise UserError(
            f"no registry: MLFLOW_TRACKING_URI is not set and no local run has made {database}; set it, or RUN_DIR",
            code="registry-unset",
        )
    folder.check_database(database)
    changes.put(variables.TRACKING_URI, connection.database_uri(database))
