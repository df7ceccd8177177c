"""Commands, their folders, and what make's variables may hold."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.inputs.table import PASSWORD, Input, command


def run(here: Path, *options: str, folder: str | None = None) -> int:
    """`make run` with a collection that is not there: what comes before that is about the folder."""
    source = "--source=nowhere" if folder is None else "--profile=smoke"
    return command("run", source, f"--run-dir={here / 'run' if folder is None else folder}", *options)


def clean(folder: str, *options: str) -> int:
    return command("clean", f"--run-dir={folder}", *options)


def made(here: Path, *names: str) -> Path:
    """A folder of runs, with what a run leaves in it."""
    path = here / "my runs"
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("x")
    path.mkdir(exist_ok=True)
    (path / ".inranker-run").touch()
    return path


def database(here: Path, damage: Callable[[Path], None]) -> int:
    """`make history` in a folder whose MLflow database is as ``damage`` leaves it."""
    path = here / "run" / "mlflow.db"
    path.parent.mkdir()
    damage(path)
    return command("history", f"--run-dir={path.parent}")


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("create table bookmarks (url text)")


def cut(path: Path) -> None:
    foreign(path)
    path.write_bytes(path.read_bytes()[:5000] + os.urandom(2000))


#: What `make clean` leaves unless it is told by name.
STAYS = ("mlflow.db", "mlartifacts/1/model", "artifacts/store/labels")


def cleaned(here: Path, *options: str, goes: tuple[str, ...] = ()) -> int:
    """``goes``: what goes of that which stays else."""
    anew = (
        "artifacts/store/unfinished/distill/1/file",
        "artifacts/scratch/x",
        "artifacts/inranker-1/x",
        "logs/a.log",
        "outcome.json",
    )
    path = made(here, *STAYS, *anew, "notes.txt")
    status = clean(str(path), *options)
    assert not any((path / name).exists() for name in anew)
    assert (path / "notes.txt").exists() and {name for name in STAYS if not (path / name).exists()} == set(goes)
    return status


def only_said(here: Path) -> int:
    path = made(here, "logs/a.log", "mlflow.db")
    status = clean(str(path), "--all", "--dry-run")
    assert (path / "logs" / "a.log").exists() and (path / "mlflow.db").exists()
    return status


@contextmanager
def running(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """While a process with these arguments runs.

    It says that it runs: for a moment after it is started, /proc shows neither its arguments nor its environment.
    """
    program = "print('runs', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdin=pipe, stdout=pipe, env=env) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        try:
            yield
        finally:
            process.stdin.write(b"\n")
            process.stdin.close()


def watched(here: Path) -> int:
    """While `make mlflow` shows the registry."""
    path = made(here, "mlflow.db", "logs/a.log")
    with running(f"sqlite:///{path}/mlflow.db"):
        status = clean(str(path), "--also=registry")
    assert (path / "mlflow.db").exists() and (path / "logs" / "a.log").exists()
    return status


def left_alone(here: Path) -> int:
    """Beside a process of a run that was killed."""
    path = made(here, ".run-1.json", "logs/a.log")
    told = {**os.environ, "INRANKER_RUN_FILE": str(path / ".run-1.json")}
    with running(env=told):
        status = clean(str(path))
    assert (path / "logs" / "a.log").exists()
    return status


def old_work(here: Path, *options: str, goes: bool = True) -> int:
    """Unfinished work of nine days ago, and of now."""
    path = made(
        here, "logs/a.log", "artifacts/store/unfinished/distill/old/1", "artifacts/store/unfinished/distill/new/1"
    )
    store = path / "artifacts" / "store" / "unfinished" / "distill"
    nine_days_ago = time.time() - 9 * 24 * 60 * 60
    os.utime(store / "old" / "1", (nine_days_ago, nine_days_ago))
    status = clean(str(path), "--unfinished=7", *options)
    assert (store / "old").exists() != goes and (store / "new").exists() and (path / "logs" / "a.log").exists()
    return status


def cleaned_away(here: Path) -> int:
    path = made(here, "mlflow.db", "artifacts/store/labels", ".lock", "artifacts/.kfp_cache/a.json")
    status = clean(str(path), "--all")
    assert not path.exists() and here.exists()
    return status


def linked(here: Path) -> int:
    (here / "link").symlink_to(made(here, "logs/a.log"))
    status = clean(str(here / "link"))
    assert (here / "my runs" / "logs" / "a.log").exists()
    return status


def linked_inside(here: Path) -> int:
    path = made(here, ".lock")
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "thesis").touch()
    (path / "artifacts").symlink_to(here / "elsewhere")
    (path / "logs").symlink_to(here / "elsewhere")
    status = clean(str(path), "--all")
    assert (here / "elsewhere" / "thesis").exists()
    return status


def held(here: Path) -> int:
    from inranker_flow.commands import folder

    with folder.working(here / "run"):
        return clean(str(here / "run"))


def loop(here: Path) -> str:
    (here / "loop").symlink_to(here / "loop")
    return str(here / "loop")


def raising(error: BaseException) -> int:
    """Any command in which ``error`` comes up."""
    from inranker_flow.commands.command import command as guarded

    def main(_arguments: object = None) -> int:
        raise error

    return guarded(main)()


def of_library(module: str, text: str) -> Exception:
    kind = type("LibraryError", (Exception,), {"__module__": module})
    found: Exception = kind(text)
    return found


def early(number: str) -> int:
    """A signal while the command is still importing."""
    script = f"""
import os, signal
signal.signal({number}, signal.default_int_handler)  # a shell starts background jobs deaf to Ctrl-C
from inranker_flow import cli
cli.main = lambda: os.kill(os.getpid(), {number})
cli.entry()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr.replace("TERMINATED", "FAILED: TERMINATED").replace("INTERRUPTED", "FAILED: INT"))
    return done.returncode


INPUTS = [
    # The folder of the runs
    Input("RUN_DIR that is a file", lambda here: run(here, folder=__file__), ("FAILED: RUN_DIR: ", "exists")),
    Input("RUN_DIR below a file", lambda here: run(here, folder=f"{__file__}/x"), ("RUN_DIR: ", "Not a directory")),
    Input("an empty RUN_DIR", lambda here: run(here, folder=""), ("RUN_DIR: it is empty",)),
    Input("a blank RUN_DIR", lambda here: run(here, folder="  "), ("RUN_DIR: it is empty",)),
    Input("RUN_DIR that is a link to itself", lambda here: run(here, folder=loop(here)), ("RUN_DIR: ", "loop")),
    Input("RUN_DIR that is too long", lambda here: run(here, folder=f"{here}/{'x' * 300}"), ("RUN_DIR: ", "too long")),
    Input("RUN_DIR with a line break", lambda here: run(here, folder="a\nb"), ("RUN_DIR: ", "control character")),
    Input("RUN_DIR that is no UTF-8", lambda here: run(here, folder="a\udcff"), ("RUN_DIR: ", "is not UTF-8")),
    Input("RUN_DIR where nothing can be made", lambda here: run(here, folder="/proc/runs"), ("RUN_DIR: /proc/runs",)),
    Input("RUN_DIR is not blamed for the collection", run, ("source: nowhere: no such file or folder",)),
    # MLflow's database in it
    Input("mlflow.db that is a text", lambda here: database(here, lambda path: path.write_text("a" * 2000)),
          ("mlflow.db", "file is not a database", "move it away")),
    Input("mlflow.db that is empty", lambda here: database(here, Path.touch), ("database is empty", "move it away")),
    Input("mlflow.db of another program", lambda here: database(here, foreign), ("not a database of MLflow's",)),
    Input("mlflow.db that is cut and overwritten", lambda here: database(here, cut), ("mlflow.db", "move it away")),
    Input("mlflow.db that is a folder", lambda here: database(here, Path.mkdir), ("no local run has made", "mlflow.db")),
    Input("make mlflow where no run was", lambda here: command("mlflow", f"--run-dir={here}"), ("no local run",)),
    # Options
    Input("RUNNER that is none", lambda here: run(here, "--runner=podman"), ("inranker run: RUNNER: invalid choice: 'podman'",)),
    Input("an option that is none", lambda here: run(here, "--frobnicate"), ("inranker run: unrecognized arguments",)),
    Input("half an option", lambda here: run(here, "--verb"), ("unrecognized arguments: --verb",)),
    Input("CALIBRATE that is no switch", lambda here: command("plan", "--calibrate=maybe"), ("CALIBRATE: invalid choice",)),
    Input("JSON that is a folder", lambda here: command("plan", f"--json={here}"), ("JSON: ", "a folder; give a file")),
    Input("DEVICE that nobody knows", lambda here: command("plan", "--device=abacus"), ("DEVICE", "abacus")),
    Input("PIPELINE that is none", lambda here: command("compile", "--", "no; such"), ("PIPELINE=no; such: no such",)),
    Input("PIPELINE that looks like an option", lambda here: command("compile", "--", "--x"), ("PIPELINE=--x: no such",)),
    Input("SET with an open quote", lambda here: run(here, "--settings=a.b='x"), ("SET: ", "' is not closed")),
    Input("SET with an open list", lambda here: run(here, "--settings=targets=[a, b"), ("SET: ", "[ is not closed")),
    Input("SET without a value", lambda here: run(here, "--settings=a.b=1 c"), ("SET: c is not of the form",)),
    Input("SET with blanks and quotes as YAML has them",
          lambda here: command("compile", "--profile=smoke", "--out=out", '--settings=targets=["a b", "it\'s"] seed=3'),
          ("smoke.json",), status=0),
    Input("CRON of five fields", lambda here: command("schedule", "--cron=0 3 * * *"), ("CRON='0 3 * * *'", "six")),
    Input("CRON with a command in it", lambda here: command("schedule", "--cron=0 0 3 * * $(date)"), ("CRON=", "no number")),
    Input("CRON with a number without end", lambda here: command("schedule", f"--cron=0 0 3 * * {'9' * 5000}"), ("CRON=",)),
    Input("IMAGES that are none", lambda here: command("images", "--only=base,'; ls"), ("IMAGES", "'; ls")),
    Input("VERSION that is no number", lambda here: command("promote", "--version=1;2", "--why=x"),
          ("no registry",)),
    Input("WHY that says nothing", lambda here: command("rollback", "--why= "), ("WHY: say why",)),
    # make clean
    *(Input(f"make clean RUN_DIR={folder or 'of nothing'}", lambda here, folder=folder: clean(folder),  # type: ignore[misc]
            ("FAILED: RUN_DIR: ",)) for folder in ("/", "/etc", "/usr/bin", ".", "..", "~", "", "/nowhere", __file__)),
    Input("make clean in somebody's folder", lambda here: clean(str(here)), ("is no folder of runs",)),
    Input("make clean through a link", linked, ("is a link to", "give the folder itself")),
    Input("make clean of a folder with links", linked_inside, ("kept", "logs (a link)"), status=0),
    Input("make clean beside a run", held, ("a run is working in",)),
    Input("make clean beside a process of a killed run", left_alone, ("that was killed is still at work", "kill -9")),
    Input("make clean ALSO=registry beside make mlflow", watched, ("RUN_DIR: process", "mlflow.db (make mlflow?)")),
    Input("make clean", cleaned,
          ("removes", "logs (1 bytes)", "scratch (1 bytes, unfinished work)", "kept", "notes.txt (not of a run)",
           "the registry and its history; ALSO=registry", "labels and results; ALSO=store"), 0),
    Input("make clean ALL=1", lambda here: cleaned(here, "--all", goes=STAYS), ("removes", "mlflow.db", "store"), status=0),
    Input("make clean ALSO=registry", lambda here: cleaned(here, "--also=registry", goes=("mlflow.db", "mlartifacts/1/model")),
          ("removes", "mlflow.db", "ALSO=store"), status=0),
    Input("make clean ALSO=store", lambda here: cleaned(here, "--also=store", goes=("artifacts/store/labels",)),
          ("removes", "ALSO=registry"), status=0),
    Input("make clean ALSO of what is nothing", lambda here: clean(str(made(here)), "--also=models"),
          ("ALSO: 'models' is nothing", "name registry or store")),
    Input("make clean DRY_RUN=1", only_said, ("removes", "mlflow.db (1 bytes)", "nothing was removed"), status=0),
    Input("make clean UNFINISHED=7", old_work,
          ("removes", "distill/old (1 bytes, last changed 9 days ago)", "kept", "distill/new"), status=0),
    Input("make clean UNFINISHED=7 DRY_RUN=1", lambda here: old_work(here, "--dry-run", goes=False),
          ("removes", "distill/old"), status=0),
    Input("make clean UNFINISHED=7 of a store without", lambda here: clean(str(made(here)), "--unfinished=7"),
          ("no unfinished work in",), status=0),
    *(Input(f"make clean UNFINISHED={days}", lambda here, days=days: clean(str(made(here)), f"--unfinished={days}"),  # type: ignore[misc]
            (f"UNFINISHED: {days!r} is no number of days",)) for days in ("0", "-1", "week", "", "1.5", "²")),
    Input("make clean ALL=1 of a folder with nothing else", cleaned_away, ("removed", "my runs"), status=0),
    # Whatever comes up in a command
    Input("a disk that is full", lambda here: raising(OSError(errno.ENOSPC, "No space left on device", "/data/x")),
          ("FAILED: /data/x: No space left on device; make room",)),
    Input("a file of another user", lambda here: raising(PermissionError(errno.EACCES, "Permission denied", b"/x")),
          ("FAILED: /x: Permission denied; grant it",)),
    Input("an error of MLflow's", lambda here: raising(of_library("mlflow.exceptions", "INTERNAL_ERROR:\n<html>\n" * 999)),
          ("FAILED: MLflow: INTERNAL_ERROR: <html>", "the traceback is in")),
    Input("an error of boto's with a password", lambda here: raising(
        of_library("botocore.exceptions", f"no answer from http://anna:{PASSWORD}@s3:9000/b")),
          ("FAILED: S3: no answer from http://***@s3:9000/b",)),
    Input("what nobody expected", lambda here: raising(ZeroDivisionError("x\ny")), ("FAILED: ZeroDivisionError: x y (the",)),
    Input("an error without words", lambda here: raising(of_library("kfp.local", "")), ("FAILED: KFP: LibraryError",)),
    Input("recursion without end", lambda here: raising(RecursionError("maximum depth")), ("FAILED: RecursionError",)),
    Input("damaged JSON", lambda here: raising(json.JSONDecodeError("Expecting value", "", 0)), ("FAILED: JSON: Expecting",)),
    Input("SIGTERM while it imports", lambda here: early("15"), ("TERMINATED: nothing was begun",), status=143),
    Input("Ctrl-C while it imports", lambda here: early("2"), ("nothing was begun",), status=130),
]  # fmt: skip
