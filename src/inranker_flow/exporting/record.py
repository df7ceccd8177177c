"""What a run measured of a student's variants, as a file beside them, and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inranker_flow.errors import UserError

#: In the folder of an export, and beside the weights of a registered student.
FILENAME = "variants.json"
#: Folders of a student's variants, beside it.
FOLDERS = ("onnx", "openvino")


def read(folder: Path | None) -> dict[str, Any]:
    """Return the record in ``folder``; empty where there is none, or no folder.

    ``variants``: name -> what was measured of it; ``left_out``: name -> why; ``checkpoint``: the same of the torch model.
    """
    path = folder / FILENAME if folder else None
    if path is None or not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not readable ({error}); the stage `export` must run again", code="artifact-unreadable"
        ) from error


def served(record: Mapping[str, Any], variant: str) -> dict[str, float]:
    """Return what the gate's budgets are about, of ``variant`` on all CPUs; empty for one that is not there."""
    found = record.get("variants", {}).get(variant)
    p95 = found and found["latency"]["all"]["p95_ms"]
    return {"size_mb": found["size_mb"], **({"latency_p95_ms": p95} if p95 is not None else {})} if found else {}


def rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table of the variants, the checkpoint first; empty where nothing was compared."""
    if not record.get("pairs"):
        return []
    first = {"name": "checkpoint", "spearman": None, "largest_difference": None, **record["checkpoint"]}
    return [first, *({"name": name, **each} for name, each in record["variants"].items())]
