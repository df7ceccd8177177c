"""A machine that has little installed: only some packages and what they need can be imported, in child processes too."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

#: What a bare GPU machine has.
GPU_MACHINE = ("torch", "transformers", "accelerate", "numpy", "pyarrow", "safetensors", "pytest")

_SITE = """
import sys

LACKING = frozenset({lacking!r})


class Finder:
    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in LACKING else self.inner.find_spec(name, path, target)


sys.meta_path[:] = [Finder(each) for each in sys.meta_path]
"""


def needed(roots: tuple[str, ...]) -> set[str]:
    """Normal names of the distributions ``roots`` and of all that they require (extras left out)."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:  # of another system
            continue
        found.add(name)
        waiting += [re.split(r"[ ;<>=!~\[(]", each, maxsplit=1)[0] for each in requires if "extra ==" not in each]
    return found


def environment(folder: Path, roots: tuple[str, ...] = GPU_MACHINE) -> dict[str, str]:
    """Variables for a Python that lacks every installed package but ``roots``, what they need, and this project."""
    kept = {*needed(roots), "inranker-flow", "pip", "setuptools"}
    lacking = sorted(
        module
        for module, names in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", name).lower() for name in names} & kept and module not in sys.stdlib_module_names
    )
    (folder / "sitecustomize.py").write_text(_SITE.format(lacking=lacking))
    # pytest's plugins would be looked for by their entry points.
    variables = {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return {**os.environ, **variables}
