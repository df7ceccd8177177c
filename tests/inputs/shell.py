"""Commands, their folders, and what make's variables may hold."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
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
    return command("promotion", "history", f"--run-dir={path.parent}")


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("create table bookmarks (url text)")


def cut(path: Path) -> None:
    foreign(path)
    path.write_bytes(path.read_bytes()[:5000] + os.urandom(2000))


def cleaned(here: Path, *options: str) -> int:
    path = made(here, "mlflow.db", "mlartifacts/1/model", "artifacts/store/labels", "artifacts/inranker-1/x", "logs/a.log",
                "notes.txt")  # fmt: skip
    status = clean(str(path), *options)
    assert not (path / "logs").exists() and not (path / "artifacts" / "inranker-1").exists()
    assert (path / "notes.txt").exists() and (path / "mlflow.db").exists() == (not options)
    assert (path / "artifacts" / "store" / "labels").exists() == (not options)
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
    from pipelines import folder

    with folder.working(here / "run"):
        return clean(str(here / "run"))


def loop(here: Path) -> str:
    (here / "loop").symlink_to(here / "loop")
    return str(here / "loop")


def raising(error: BaseException) -> int:
    """Any command in which ``error`` comes up."""
    from pipelines.command import command as guarded

    def main(_arguments: object = None) -> int:
        raise error

    return guarded(main)()


def of_library(module: str, text: str) -> Exception:
    kind = type("LibraryError", (Exception,), {"__module__": module})
    found: Exception = kind(text)
    return found


def early(number: str) -> int:
    """A signal while the command is still importing."""
    script = f"import sys, os; sys.argv = ['-m']; import pipelines; os.kill(os.getpid(), {number})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        # A shell starts background jobs deaf to Ctrl-C, and children inherit that; a person's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
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
    Input("make mlflow where no run was", lambda here: command("mlflow_ui", f"--run-dir={here}"), ("no local run",)),
    # Options
    Input("RUNNER that is none", lambda here: run(here, "--runner=podman"), ("make run: RUNNER: invalid choice: 'podman'",)),
    Input("an option that is none", lambda here: run(here, "--frobnicate"), ("make run: unrecognized arguments",)),
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
    Input("IMAGES that are none", lambda here: command("images", "build", "--only=base,'; ls"), ("IMAGES", "'; ls")),
    Input("VERSION that is no number", lambda here: command("promotion", "promote", "--version=1;2", "--why=x"),
          ("no registry",)),
    Input("WHY that says nothing", lambda here: command("promotion", "rollback", "--why= "), ("WHY: say why",)),
    # make clean
    *(Input(f"make clean RUN_DIR={folder or 'of nothing'}", lambda here, folder=folder: clean(folder),  # type: ignore[misc]
            ("FAILED: RUN_DIR: ",)) for folder in ("/", "/etc", "/usr/bin", ".", "..", "~", "", "/nowhere", __file__)),
    Input("make clean in somebody's folder", lambda here: clean(str(here)), ("is no folder of runs",)),
    Input("make clean through a link", linked, ("is a link to", "give the folder itself")),
    Input("make clean of a folder with links", linked_inside, ("kept", "logs (a link)"), status=0),
    Input("make clean beside a run", held, ("a run is working in",)),
    Input("make clean", cleaned, ("removed", "logs", "kept", "the registry; ALL=1", "labels", "notes.txt (not of a run)"), 0),
    Input("make clean ALL=1", lambda here: cleaned(here, "--all"), ("removed", "mlflow.db", "store"), status=0),
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
