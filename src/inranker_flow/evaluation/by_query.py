"""queries.csv: every judged test query with every system's measures, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inranker_flow.evaluation.gate import from_measures
from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.storage.local import atomic_write

FILENAME = "queries.csv"
#: A cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(evaluation: Path, sets: Sequence[JudgedSet], summary: Mapping[str, Any], table: Any) -> str:
    """Write the file into the folder ``evaluation``; return its content."""
    columns = [(measure, system) for measure in summary["measures"] for system in summary["systems"]]
    values = [from_measures(table, system, measure) for measure, system in columns]
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["dataset", "query_id", "query", *(f"{measure} {system}" for measure, system in columns)])
    for each in sets:
        for query_id in sorted(each.qrels):
            told = [_text(each.dataset), _text(query_id), _text(each.queries[query_id])]
            rows.writerow([*told, *(f"{found[each.dataset][query_id]:.4f}" for found in values)])
    with atomic_write(evaluation / FILENAME) as file:
        file.write(out.getvalue().encode())
    return out.getvalue()


def read(evaluation: Path) -> str:
    """Return the file's content; "" where an evaluation has none."""
    path = evaluation / FILENAME
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _text(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
