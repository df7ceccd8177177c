"""The pairs of a training set that people judged relevant: for losses that learn from judgements too."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from inranker_flow.artifacts import tables


def write_judged(candidates: Path, labels: Path) -> None:
    """Write the positive pairs of ``candidates`` that have a label in ``labels``; no table where there are none."""
    pairs = tables.read(tables.PAIRS, candidates)
    pairs = pairs.filter(pc.equal(pairs.column("role"), "positive")).select(["query_id", "doc_id"])
    known = tables.joined_keys(tables.read(tables.LABELS, labels)).combine_chunks()
    judged = pairs.filter(pc.is_in(tables.joined_keys(pairs), value_set=known))
    if judged.num_rows:
        judged = judged.sort_by([("query_id", "ascending"), ("doc_id", "ascending")])
        tables.write(tables.JUDGED, labels / tables.JUDGED.filename, judged)
