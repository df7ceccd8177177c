"""`make clean`: remove what runs and builds left, and say first what. The registry and the labels stay.

    inranker clean --run-dir .run [--also registry,store] [--all] [--dry-run]
    inranker clean --unfinished DAYS [--dry-run]

Only a folder that `make run` has made its own is touched, and of it only what `make run` writes there. Needs no package:
it works before the environment is there, too. The second form is about the store alone (``INRANKER_STORE``, else that of the
folder): unfinished work of stages that nobody has gone on with for so many days.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inranker_flow import lifeline
from inranker_flow.commands import folder
from inranker_flow.commands.command import Parser, command
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.store import unfinished

ROOT = Path(__file__).resolve().parents[3]
#: Left in the project's folder by builds and checks.
BUILT = ("build", ".pytest_cache", ".ruff_cache", ".mypy_cache")
#: In a folder of runs: what the next run makes anew ...
MADE_ANEW = ("logs", "report.html", "outcome.json", "inranker.yaml", "retrain.yaml")
#: ... and what it does not, by the name that removes it, too: versions and what is known of them; the teacher's labels.
KEPT = {
    "registry": {"mlflow.db": "the registry and its history", "mlartifacts": "the registered models"},
    "store": {"artifacts/store": "labels and results"},
}
_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class _Found:
    """What is to go from a folder of runs, and lines about what stays."""

    goes: list[Path]
    stays: list[str]


@command
def main(arguments: list[str] | None = None) -> int:
    """Say what goes, and remove it; returns the exit status."""
    parser = Parser("inranker clean")
    parser.add_argument("--run-dir", default=str(folder.DEFAULT))
    parser.add_argument("--also", default="", help=f"what stays else, by name: {', '.join(KEPT)}")
    parser.add_argument("--all", action="store_true", help="all that stays else")
    parser.add_argument("--unfinished", metavar="DAYS", help="only unfinished work in the store that is older")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    options = parser.parse_args(arguments)
    if options.unfinished is not None:
        return _old_work(options.run_dir, options.unfinished, options.dry_run)
    also = tuple(KEPT) if options.all else tuple(filter(None, options.also.replace(",", " ").split()))
    for name in also:
        if name not in KEPT:
            raise UserError(
                f"ALSO: {name!r} is nothing that can be removed, too; name {' or '.join(KEPT)}", code="setting-value"
            )
    with _held(options.run_dir) as path:
        found = _in_folder(path, also) if path else _Found([], [])
        goes = [*found.goes, *_built()]
        lines = [f"removes  {each} ({_size(_bytes(each))}{_about(each)})" for each in goes]
        print("\n".join([*lines, *found.stays]) or "nothing to remove", flush=True)
        if not options.dry_run:
            for each in goes:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
            _tidy(path)
    if options.dry_run and goes:
        print("nothing was removed: without DRY_RUN it is")
    return 0


@contextmanager
def _held(text: str) -> Iterator[Path | None]:
    """The folder of runs, which no run can begin in meanwhile; None where there is none."""
    path = _own_folder(text)
    if path is None:
        yield None
        return
    with open(path / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"RUN_DIR: a run is working in {path}; wait for it", code="folder-in-use") from error
        if any(lifeline.processes(each) for each in folder.files(path)):
            raise folder.left_working(path)
        yield path


def _in_folder(path: Path, also: Sequence[str]) -> _Found:
    names = [*MADE_ANEW, *_artifacts(path)]
    kept: dict[str, str] = {}
    for key, each in KEPT.items():
        if key in also:
            names += each
        else:
            kept |= {name: f"{what}; ALSO={key} removes it" for name, what in each.items()}
    if "store" not in also:
        names.append(f"artifacts/store/{unfinished.FOLDER}")
    if "registry" in also and (reader := _reader(path / "mlflow.db")):
        raise UserError(
            f"RUN_DIR: process {reader} works on {path / 'mlflow.db'} (make mlflow?); end it, or wait for it",
            code="folder-in-use",
        )
    here = [path / name for name in names if os.path.lexists(path / name)]
    goes = [each for each in here if not _is_linked(each, path)]
    stays = [f"kept     {each} (a link)" for each in here if each not in goes]
    stays += [f"kept     {path / name} ({why})" for name, why in kept.items() if (path / name).exists()]
    ours = {folder.MARKER, ".lock", "artifacts", *MADE_ANEW, *(each.name for each in folder.files(path))}
    ours |= {name for each in KEPT.values() for name in each}
    stays += [f"kept     {each} (not of a run)" for each in sorted(path.iterdir()) if each.name not in ours]
    return _Found(goes, stays)


def _artifacts(path: Path) -> list[str]:
    artifacts = path / "artifacts"
    if artifacts.is_symlink() or not artifacts.is_dir():
        return ["artifacts"] if artifacts.is_symlink() else []
    return [f"artifacts/{each.name}" for each in sorted(artifacts.iterdir()) if each.name != "store"]


def _is_linked(path: Path, root: Path) -> bool:
    """Return whether a link leads there: what lies behind it is not the run's."""
    return any(each.is_symlink() for each in (path, *path.parents) if each.is_relative_to(root) and each != root)


def _reader(database: Path) -> int | None:
    """Return a process that was told to work on the database, such as MLflow's UI."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
        if os.fsencode(database) in told and int(process.name) != os.getpid():
            return int(process.name)
    return None


def _tidy(path: Path | None) -> None:
    """Remove a folder of runs in which nothing is left."""
    if path is None:
        return
    artifacts = path / "artifacts"
    for each in (artifacts / "store", artifacts):
        if each.is_dir() and not each.is_symlink() and not any(each.iterdir()):
            each.rmdir()
    left = list(path.iterdir())
    if {each.name for each in left} <= {folder.MARKER, ".lock", *(each.name for each in folder.files(path))}:
        for each in left:
            each.unlink()
        path.rmdir()
        print(f"removed  {path}: nothing is left in it")


def _own_folder(text: str) -> Path | None:
    """Return the folder of runs to empty, None where there is none; :class:`UserError` for any other folder."""
    path = folder.checked(text)
    given = Path(text).expanduser().absolute()
    if given.is_symlink():
        raise UserError(f"RUN_DIR: {text} is a link to {path}; give the folder itself", code="folder-link")
    here = Path.cwd().resolve()
    if path in (Path(path.anchor), Path.home().resolve(), here, *here.parents, ROOT, *ROOT.parents):
        raise UserError(f"RUN_DIR: {path} is no folder of runs; nothing was removed", code="folder-not-of-runs")
    if not path.exists():
        if given != Path(folder.DEFAULT).absolute():
            raise UserError(f"RUN_DIR: {path}: no such folder; nothing was removed", code="not-found")
        return None
    if not _is_of_runs(path):
        raise UserError(
            f"RUN_DIR: {path} is no folder of runs (make run leaves {folder.MARKER} in one); nothing was removed",
            code="folder-not-of-runs",
        )
    return path


def _is_of_runs(path: Path) -> bool:
    """Return whether `make run` has worked there; before it left a mark it left these."""
    earlier = (path / ".lock").is_file() and (path / "artifacts").is_dir()
    compiled = any((path / name).is_file() for name in ("inranker.yaml", "retrain.yaml"))
    return path.is_dir() and ((path / folder.MARKER).is_file() or (earlier and compiled))


def _built() -> list[Path]:
    """As `make clean` is called in the project's folder; elsewhere it is about the runs alone."""
    here = [ROOT / name for name in BUILT if Path.cwd().resolve() == ROOT]
    return [each for each in here if each.exists() and not each.is_symlink()]


def _old_work(run_dir: str, days: str, dry: bool) -> int:
    """Say what unfinished work lies in the store, and remove what is older."""
    if not days.isascii() or not days.isdigit() or int(days) < 1:
        raise UserError(f"UNFINISHED: {days!r} is no number of days of 1 or more, such as 7", code="setting-value")
    root = variables.store_root() or str(folder.checked(run_dir) / "artifacts" / "store")
    found = list(unfinished.left(root))
    for each in found:
        age = max(time.time() - each.changed, 0.0)
        old = age >= int(days) * _DAY
        print(
            f"{'removes' if old else 'kept':<8} {each.uri} ({_size(each.size)}, last changed {_age(age)} ago)",
            flush=True,
        )
        if old and not dry:
            unfinished.remove(each.uri)
    if not found:
        print(f"no unfinished work in {root}")
    return 0


def _about(path: Path) -> str:
    return ", unfinished work" if path.name in ("scratch", unfinished.FOLDER) else ""


def _bytes(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum((Path(at) / name).lstat().st_size for at, _, names in os.walk(path) for name in names)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _age(seconds: float) -> str:
    for size, unit in ((_DAY, "days"), (60 * 60, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return "less than two minutes"
