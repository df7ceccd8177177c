"""`manifest.json`: what an artifact folder holds, of which dataset, with content digests.

The dataset's name travels inside the artifact, so that lists of artifacts are joined by name and never by position.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.storage import atomic_write, digest_file

FILENAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """``dataset`` name, ``stage`` that wrote it, ``files`` -> sha256 hex digest, free-form JSON ``details``."""

    dataset: str
    stage: str
    files: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def write_manifest(folder: str | os.PathLike[str], *, dataset: str, stage: str, **details: Any) -> Manifest:
    """Digest every file in ``folder`` and write its manifest, last and atomically: its presence says "complete"."""
    folder = Path(folder)
    files = {
        str(path.relative_to(folder)): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILENAME
    }
    manifest = Manifest(dataset, stage, files, details)
    with atomic_write(folder / FILENAME) as out:
        out.write(json.dumps(asdict(manifest), indent=1, sort_keys=True).encode())
    return manifest


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read an artifact's manifest; :class:`UserError` when it is missing or malformed."""
    path = Path(folder) / FILENAME
    try:
        return Manifest(**json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing, so the stage that should have written this artifact did not end") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a manifest: {error}") from error
