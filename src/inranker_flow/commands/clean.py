"""`make clean`: remove what runs and builds left, and say what. The registry and the labels stay.

    inranker clean --run-dir .run [--all]

Only a folder that `make run` has made its own is touched, and of it only what `make run` writes there. Needs no package:
it works before the environment is there, too.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from inranker_flow.commands import folder
from inranker_flow.commands.command import Parser, command
from inranker_flow.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
#: Left in the project's folder by builds and checks.
BUILT = ("build", ".pytest_cache", ".ruff_cache", ".mypy_cache")
#: In a folder of runs: what the next run makes anew ...
MADE_ANEW = ("logs", "report.html", "inranker.yaml", "retrain.yaml")
#: ... and what it does not: versions and what is known of them, and below `artifacts` the teacher's labels.
KEPT = {"mlflow.db": "the registry", "mlartifacts": "the registered models", "artifacts/store": "labels and results"}


@command
def main(arguments: list[str] | None = None) -> int:
    """Remove and say what; returns the exit status."""
    parser = Parser("inranker clean")
    parser.add_argument("--run-dir", default=str(folder.DEFAULT))
    parser.add_argument("--all", action="store_true", help="the registry and the labels, too")
    options = parser.parse_args(arguments)
    lines = [*_runs(options.run_dir, options.all), *_built()]
    print("\n".join(lines) or "nothing to remove")
    return 0


def _runs(text: str, everything: bool) -> Iterator[str]:
    """Empty a folder of runs, and tell of each thing in it."""
    path = _own_folder(text)
    if path is None:
        return
    with open(path / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"RUN_DIR: a run is working in {path}; wait for it") from error
        for name in (*MADE_ANEW, *_artifacts(path), *(KEPT if everything else ())):
            yield from _remove(path / name)
        kept = [name for name in KEPT if not everything and (path / name).exists()]
        for name in kept:
            yield f"kept     {path / name} ({KEPT[name]}; ALL=1 removes it)"
        artifacts = path / "artifacts"
        if artifacts.is_dir() and not artifacts.is_symlink() and not any(artifacts.iterdir()):
            artifacts.rmdir()
        ours = {folder.MARKER, ".lock", "artifacts", *KEPT, *(each.name for each in folder.files(path))}
        yield from (f"kept     {each} (not of a run)" for each in sorted(path.iterdir()) if each.name not in ours)
        if {each.name for each in path.iterdir()} <= ours - {"artifacts", *KEPT}:
            for each in list(path.iterdir()):
                each.unlink()
            path.rmdir()
            yield f"removed  {path}"


def _artifacts(path: Path) -> list[str]:
    artifacts = path / "artifacts"
    if artifacts.is_symlink() or not artifacts.is_dir():
        return []
    return [f"artifacts/{each.name}" for each in sorted(artifacts.iterdir()) if f"artifacts/{each.name}" not in KEPT]


def _own_folder(text: str) -> Path | None:
    """The folder of runs to empty, None where there is none; :class:`UserError` for any other folder."""
    path = folder.checked(text)
    given = Path(text).expanduser().absolute()
    if given.is_symlink():
        raise UserError(f"RUN_DIR: {text} is a link to {path}; give the folder itself")
    here = Path.cwd().resolve()
    if path in (Path(path.anchor), Path.home().resolve(), here, *here.parents, ROOT, *ROOT.parents):
        raise UserError(f"RUN_DIR: {path} is no folder of runs; nothing was removed")
    if not path.exists():
        if given != Path(folder.DEFAULT).absolute():
            raise UserError(f"RUN_DIR: {path}: no such folder; nothing was removed")
        return None
    if not _is_of_runs(path):
        raise UserError(
            f"RUN_DIR: {path} is no folder of runs (make run leaves {folder.MARKER} in one); nothing was removed"
        )
    return path


def _is_of_runs(path: Path) -> bool:
    """Whether `make run` has worked there; before it left a mark it left these."""
    earlier = (path / ".lock").is_file() and (path / "artifacts").is_dir()
    compiled = any((path / name).is_file() for name in ("inranker.yaml", "retrain.yaml"))
    return path.is_dir() and ((path / folder.MARKER).is_file() or (earlier and compiled))


def _built() -> Iterator[str]:
    """As `make clean` is called in the project's folder; elsewhere it is about the runs alone."""
    for name in BUILT if Path.cwd().resolve() == ROOT else ():
        yield from _remove(ROOT / name)


def _remove(path: Path) -> Iterator[str]:
    if path.is_symlink():
        yield f"kept     {path} (a link)"
    elif path.is_dir():
        shutil.rmtree(path)
        yield f"removed  {path}"
    elif path.exists():
        path.unlink()
        yield f"removed  {path}"
