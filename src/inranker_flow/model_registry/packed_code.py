"""The part of this package that a registered model brings with it: what its `predict` may import, and no more."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
#: The code that MLflow runs; all else follows from its imports.
PYFUNC = Path(__file__).with_name("pyfunc.py")


def copy(target: Path) -> None:
    """Copy the modules that the pyfunc reaches into the new folder ``target``, with the texts that lie beside them."""
    modules = _reached()
    texts = {each for folder in {module.parent for module in modules} for each in folder.glob("*.txt")}
    for path in modules | texts:
        copied = target / path.relative_to(_PACKAGE)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)


@cache
def _reached() -> frozenset[Path]:
    """Return the modules that the pyfunc imports, at once or in a function, and whatever these import in turn."""
    found: set[Path] = set()
    waiting = {PYFUNC}
    while waiting:
        new = {*_imports(waiting.pop())} - found
        found |= new
        waiting |= new
    return frozenset(found)


def _imports(path: Path) -> Iterator[Path]:
    """Yield the modules of this package that a module imports, and the packages in which they lie."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        else:
            continue
        for parts in (name.split(".") for name in names):
            if parts[0] != _PACKAGE.name:
                continue
            for end in range(1, len(parts) + 1):
                place = _PACKAGE.joinpath(*parts[1:end])
                yield from (each for each in (place / "__init__.py", place.with_suffix(".py")) if each.is_file())
