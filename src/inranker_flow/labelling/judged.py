"""The pairs of a training set that people judged relevant: for losses that learn from judgements too."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables


def write_judged(candidates: Path, labels: Path) -> None:
    """Write the positive pairs of ``candidates``, each of which has a label in ``labels``; no table where there are none."""
    batches = [
        batch.filter(pc.equal(batch.column("role"), "positive"))
        for batch in tables.read_batches(tables.PAIRS, candidates)
    ]
    judged = pa.Table.from_batches(batches, tables.PAIRS.schema).select(["query_id", "doc_id"])
    if judged.num_rows:
        judged = judged.sort_by([("query_id", "ascending"), ("doc_id", "ascending")])
        tables.write(tables.JUDGED, labels / tables.JUDGED.filename, judged)
