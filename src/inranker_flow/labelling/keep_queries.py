"""Keep the synthetic queries whose source document the teacher finds most relevant (InPars-v2, arXiv 2301.01820).

The teacher has scored that pair anyway, as one of the training pairs, so the filter costs nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables

log = logging.getLogger(__name__)


def keep_relevant(folder: Path, most: int) -> int:
    """Rewrite the queries and labels in ``folder`` with the ``most`` best synthetic queries; returns how many it dropped.

    The order is that of true_logit - false_logit of a query and its source document, ties by query_id; a query without
    that pair is the last. Queries without a source document stay, and ``most`` 0 keeps all.
    """
    if not most:
        return 0
    queries = tables.read(tables.QUERIES, folder)
    synthetic = queries.filter(pc.is_valid(queries.column("source_doc_id")))
    if synthetic.num_rows <= most:
        return 0
    labels = tables.read(tables.LABELS, folder)
    margins = labels.select(["query_id", "doc_id"]).append_column(
        "margin", pc.subtract(labels.column("true_logit"), labels.column("false_logit"))
    )
    scored = synthetic.select(["query_id", "source_doc_id"]).join(
        margins, ["query_id", "source_doc_id"], ["query_id", "doc_id"], "left outer"
    )
    ranked = scored.sort_by([("margin", "descending"), ("query_id", "ascending")])  # nulls are the last
    dropped = pa.array(ranked.column("query_id").slice(most).to_pylist(), pa.string())
    for table, name in ((queries, tables.QUERIES), (labels, tables.LABELS)):
        kept = table.filter(pc.invert(pc.is_in(table.column("query_id"), value_set=dropped)))
        tables.write(name, folder / name.filename, kept)
    log.info("%s of %s synthetic queries kept by the teacher's score", f"{most:,}", f"{synthetic.num_rows:,}")
    return len(dropped)
