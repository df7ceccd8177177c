"""MLflow databases for tests: one is migrated in a process, which takes seconds, and the others are copies of it."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from inranker_flow import tracking
from tests import models


@cache
def _empty() -> Path:
    path = models.folder() / "mlflow.db"
    tracking.create_database(path)
    return path


def new_database(path: Path) -> str:
    """What `tracking.create_database` makes at ``path``; returns its address."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_empty(), path)
    return tracking.database_uri(path)
