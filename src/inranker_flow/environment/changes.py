"""Changes of this process' environment, and the environment of a child.

Libraries read their variables by themselves, some of them when they are imported. What a run tells its stages goes the
same way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


def put(name: str, value: str) -> None:
    """Set a variable, whatever it was."""
    os.environ[name] = value


def default(name: str, value: str) -> None:
    """Set a variable unless it is set."""
    os.environ.setdefault(name, value)


def drop(name: str) -> None:
    """Unset a variable."""
    os.environ.pop(name, None)


@contextmanager
def temporarily(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables until the block ends; then they are as they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            drop(name) if value is None else put(name, value)


def for_child(values: Mapping[str, str]) -> dict[str, str]:
    """Return this environment with ``values``, for a process that is started."""
    return {**os.environ, **values}


def replace(values: Mapping[str, str]) -> None:
    """Make this process' environment the one that :func:`for_child` returned."""
    os.environ.clear()
    os.environ.update(values)
