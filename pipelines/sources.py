"""Which of the library's sources a stage's result can depend on: found from its imports, so that none is forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

from pipelines.placement import ROOT

PACKAGE = "inranker_flow"
SRC = ROOT / "src"
#: What carries a result, and keeps, names or tells it, but changes none: a change there asks for no new version.
CARRIERS = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        *("api", "cli", "commands", "cpus", "environment", "errors", "lifeline", "markdown", "progress", "redaction"),
        *(
            "reranker",
            "scratch",
            "storage",
            "text_files",
            "tracking",
            "workflow",
            "artifacts.manifest",
            "evaluation.gate",
        ),
        *(
            "execution",
            "model_registry",
            "planning",
            "preflight",
            "profiles",
            "services",
            "settings",
            "stages.discover",
        ),
        *(f"store.{each}" for each in ("claims", "conditions", "kept_rows", "sharing", "stage_results", "unfinished")),
    )
)


def of(*modules: str) -> list[Path]:
    """Return the files of ``modules`` and of all that they import, directly or not, in functions too; and the data files
    (templates, word lists) beside them. `CARRIERS` are left out. Sorted."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in found or path is None or _carries(name):
            continue
        found[name] = path
        waiting += _imports(name, path)
    packages = {path.parent for path in found.values() if path.name == "__init__.py"}
    data = {each for folder in packages if folder != SRC / PACKAGE for each in _data(folder)}
    return sorted({*found.values(), *data} - {SRC / PACKAGE / "__init__.py"})


def digest(paths: list[Path]) -> str:
    """Return a digest of what the files ``paths`` do: code without comments, docstrings and layout; other files as they
    are."""
    made = sha256()
    for path in paths:
        made.update(f"{path.relative_to(SRC)}\0{_content(path)}\n".encode())
    return made.hexdigest()[:16]


def _carries(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in CARRIERS for length in range(2, len(parts) + 1))


def _file(module: str) -> Path | None:
    base = SRC.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(name: str, path: Path) -> Iterator[str]:
    """Yield modules of the package that ``path`` imports: a name that is imported from a package may be a module of it."""
    # A package is imported before its modules.
    yield name.rpartition(".")[0]
    for node in ast.walk(_tree(path)):
        # What only a type checker reads changes no result.
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)
        elif (
            isinstance(node, ast.Name) and node.id == "import_module" and path.name == "__init__.py" and name != PACKAGE
        ):
            # Which of its modules is chosen at run time: any.
            yield from (f"{name}.{each.stem}" for each in path.parent.glob("*.py"))


def _data(folder: Path) -> list[Path]:
    """Return files beside a package's modules, and in its folders that hold no modules; not the demo's weights, whose digests
    are in the keys."""
    if folder.name == "demo":
        return []
    inside = [each for each in folder.iterdir() if each.is_dir() and each.name != "__pycache__"]
    plain = [each for each in inside if not any(each.glob("*.py"))]
    return [
        path
        for each in (folder, *plain)
        for path in each.iterdir()
        if path.is_file() and path.suffix not in (".py", ".md")
    ]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _content(path: Path) -> str:
    if path.suffix != ".py":
        return sha256(path.read_bytes()).hexdigest()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return sha256(ast.dump(tree).encode()).hexdigest()
