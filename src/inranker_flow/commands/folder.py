"""The folder of the local runs (``RUN_DIR``): one run at a time, and nothing left of one that was killed.

A run holds two locks, which the kernel frees however it ends. That on ``.lock`` is inherited by its stages: the next run
begins when the last of them is gone. That on the run's own file, ``.run-...json``, is the run's alone: its stages wait for
it and end with it (`inranker_flow.lifeline`). A file without its run tells the next run what to tidy up.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from inranker_flow import lifeline, scratch
from inranker_flow.environment import changes, variables
from inranker_flow.errors import UserError

#: What makes a folder one of ours: `make clean` touches no other.
MARKER = ".inranker-run"
DEFAULT = Path(".run")
#: Seconds to wait for what a killed run has left to be gone.
PATIENCE = 20.0


@dataclass
class Run:
    """This run's hold on its folder. ``file`` names it to everything that it starts; ``lock`` is for its stages."""

    folder: Path
    file: Path
    lock: int
    temporary: Path
    _own: IO[str]
    facts: dict[str, Any] = field(default_factory=dict)

    def remember(self, **facts: Any) -> None:
        """Keep something for the run that tidies up after this one, should it be killed."""
        self.facts |= facts
        text = json.dumps(self.facts)
        self._own.seek(0)
        self._own.write(text)
        self._own.truncate()
        self._own.flush()

    def let_go(self) -> None:
        """Free this run's own lock: all of its stages end."""
        fcntl.flock(self._own, fcntl.LOCK_UN)


def checked(text: str | Path) -> Path:
    """Return ``RUN_DIR`` as an absolute path; :class:`UserError` for what cannot be the folder of runs."""
    name = str(text)
    if not name.strip():  # Path("") would be the current folder
        raise UserError(
            f"RUN_DIR: it is empty; give a folder for the runs, or leave it out for {DEFAULT}", code="setting-missing"
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"RUN_DIR: {name!r} is not UTF-8; give a folder with another name", code="name-unusable"
        ) from error
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise UserError(
            f"RUN_DIR: {name!r} holds a control character; give a folder with another name", code="name-unusable"
        )
    try:
        return Path(name).expanduser().resolve(strict=False)
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise UserError(f"RUN_DIR: {name}: {_said(error)}; give another RUN_DIR", code="disk-refused") from error


def _said(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


@contextmanager
def of_runs(folder: Path) -> Iterator[None]:
    """Say of a trouble with the folder itself that it is ``RUN_DIR``'s."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise UserError(
            f"RUN_DIR: {where}: {_said(error)}; make room, grant it, or give another RUN_DIR", code="disk-refused"
        ) from error


@contextmanager
def working(folder: Path) -> Iterator[Run]:
    """Hold ``folder`` for one run; :class:`UserError` where another one is at work there."""
    with of_runs(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+", encoding="utf-8")
    with lock:
        _take(folder, lock)
        with of_runs(folder):
            marker = folder / MARKER
            marker.write_text("A folder of InRanker Flow's runs: `make clean` removes what they left in it.\n")
            own, path = _own_file(folder)
        with own, tempfile.TemporaryDirectory(prefix="inranker-run-", ignore_cleanup_errors=True) as temporary:
            run = Run(folder, path, lock.fileno(), Path(temporary), own)
            try:
                with of_runs(folder):
                    run.remember(process=os.getpid(), temporary=temporary)
                with _environment(run):
                    yield run
            finally:
                until = time.monotonic() + PATIENCE
                while lifeline.end(path) and time.monotonic() < until:
                    time.sleep(0.02)
                path.unlink(missing_ok=True)


@contextmanager
def _environment(run: Run) -> Iterator[None]:
    """Set the variables of the run for its child processes: the run's file, and the folder of temporary files."""
    cache = str(variables.cache())  # downloads outlive a run
    with changes.temporarily({variables.RUN_FILE: str(run.file), "TMPDIR": str(run.temporary), variables.CACHE: cache}):
        tempfile.tempdir = str(run.temporary)
        try:
            yield
        finally:
            tempfile.tempdir = None


def _own_file(folder: Path) -> tuple[IO[str], Path]:
    handle, name = tempfile.mkstemp(dir=folder, prefix=".run-", suffix=".json")
    fcntl.flock(handle, fcntl.LOCK_EX)
    return os.fdopen(handle, "w+", encoding="utf-8"), Path(name)


def _take(folder: Path, lock: IO[str]) -> None:
    """Take the folder's lock; wait for stages of a killed run, which are about to end, and for nothing else."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            alive = [path for path in files(folder) if _is_held(path)]
            if alive:
                who = facts(alive[0]).get("process")
                named, remedy = (f" (process {who})", f", end it (kill {who})") if who else ("", "")
                raise UserError(
                    f"RUN_DIR: another run is working in {folder}{named}; wait for it{remedy} or give another RUN_DIR",
                    code="folder-in-use",
                ) from error
            if time.monotonic() > until:
                raise left_working(folder) from error
            time.sleep(0.05)
        else:
            break
    # Processes that do not hold the lock (a stage's own processes) end by themselves, too.
    while any(lifeline.processes(path) for path in files(folder)):
        if time.monotonic() > until:
            raise left_working(folder)
        time.sleep(0.05)


def left_working(folder: Path) -> UserError:
    """Return what to say where the processes of a killed run are still at work in ``folder``."""
    numbers = sorted({number for path in files(folder) for number in lifeline.processes(path)})
    who = f"process {', '.join(map(str, numbers))} of a run" if numbers else "a stage of a run"
    remedy = f"end it (kill -9 {' '.join(map(str, numbers))})" if numbers else "end it"
    return UserError(
        f"RUN_DIR: {who} that was killed is still at work in {folder}; {remedy} or give another RUN_DIR",
        code="folder-in-use",
    )


def files(folder: Path) -> list[Path]:
    """Return the files of runs in ``folder``: of the one that is at work, and of those that were killed."""
    return sorted(folder.glob(".run-*.json"))


def facts(path: Path) -> dict[str, Any]:
    """Return the facts that a run noted in its file; none if it was killed while it wrote them."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_held(path: Path) -> bool:
    """Return whether the run of this file lives. Its stages ask for a shared lock only, so that is what is asked for here."""
    try:
        with open(path, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def tidy(run: Run) -> dict[Path, dict[str, Any]]:
    """Remove what killed runs left in this run's folder; returns their files, with what each had remembered."""
    found = {}
    for path in files(run.folder):
        if path == run.file:
            continue
        found[path] = known = facts(path)
        temporary = Path(str(known.get("temporary") or ""))
        if temporary.name.startswith("inranker-run-"):
            shutil.rmtree(temporary, ignore_errors=True)
    if found:
        scratch.sweep_tree(run.folder)
    _drop_damaged_cache(run.folder / "artifacts" / ".kfp_cache")
    return found


def _drop_damaged_cache(folder: Path) -> None:
    """KFP's cache reads what it wrote itself and trusts it; an entry that is damaged is a task to do again."""
    for path in sorted(folder.glob("*.json")):
        try:
            sound = isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
        except ValueError:
            sound = False
        if not sound:
            path.unlink()
            print(f"{path}: damaged, so removed: its task is done again", file=sys.stderr)


def check_database(path: Path) -> None:
    """Refuse an MLflow database that is damaged, before MLflow tries it for minutes; :class:`UserError`."""
    if not path.exists():
        return
    remedy = "restore it from a copy, or move it away: a new one is begun, with an empty registry"
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: MLflow's database is empty; {remedy}", code="database-damaged")
        # Not for reading alone: a killed writer's journal is rolled back first.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as database:
            broken = [row[0] for row in database.execute("PRAGMA quick_check(1)") if row[0] != "ok"]
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        remedy = "end the other process that works on it" if "locked" in str(error) else remedy
        raise UserError(
            f"{path}: MLflow's database cannot be read ({error}); {remedy}", code="database-damaged"
        ) from error
    if broken:
        raise UserError(
            f"{path}: MLflow's database is damaged ({' '.join(broken[0].split())}); {remedy}", code="database-damaged"
        )
    if not {"alembic_version", "experiments", "runs"} <= tables:
        raise UserError(f"{path}: not a database of MLflow's; {remedy}", code="database-damaged")
