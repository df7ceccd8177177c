"""Judgements and queries of a collection as columns, while it is read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.corpora.problems import Problems, Rows

#: Ids that TREC files, which separate columns by white space, cannot hold.
_BAD_ID = r"^$|[\s\x00-\x1f]"


def good_ids(rows: Rows, problems: Problems) -> np.ndarray:
    """Return a mask of the rows whose id, and their document's, fits the files between stages; the others are reported."""
    good = np.ones(len(rows.columns[0]), bool)
    for place in range(0, len(rows.columns), 3):
        bad = pc.match_substring_regex(pa.array(rows.columns[place], pa.string()), _BAD_ID)
        bad = good & bad.to_numpy(zero_copy_only=False)
        what = f"id {{{place}!r}} is empty or holds white space, which TREC files cannot"
        problems.add_rows("malformed", rows, bad, what)
        good &= ~bad
    return good


@dataclass
class Judgements:
    """Judgements of both splits as parallel columns; ``query`` and ``doc`` are the first words of the ids' hashes."""

    query_id: pa.ChunkedArray = field(default_factory=lambda: pa.chunked_array([], pa.string()))
    doc_id: pa.ChunkedArray = field(default_factory=lambda: pa.chunked_array([], pa.string()))
    relevance: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    query: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    doc: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    test: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    line: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    file: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    #: The file that each number in ``file`` stands for.
    files: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.relevance)

    def select(self, keep: np.ndarray) -> Judgements:
        mask = pa.array(keep)
        ids = self.query_id.filter(mask), self.doc_id.filter(mask)
        return Judgements(
            *ids, self.relevance[keep], self.query[keep], self.doc[keep], self.test[keep], self.line[keep], self.file[keep],
            self.files,
        )  # fmt: skip

    def report(self, problems: Problems, kind: str, bad: np.ndarray, what: str) -> None:
        """Report the rows where ``bad``; ``what`` may name {query} and {doc}."""
        for at in np.flatnonzero(bad):
            text = what.format(query=self.query_id[at].as_py(), doc=self.doc_id[at].as_py())
            problems.add(kind, self.files[self.file[at]], self.line[at], text)


def joined(parts: list[Judgements], files: list[str]) -> Judgements:
    """Return all rows of ``parts``, in order."""
    return Judgements(
        pa.chunked_array([chunk for part in parts for chunk in part.query_id.chunks], pa.string()),
        pa.chunked_array([chunk for part in parts for chunk in part.doc_id.chunks], pa.string()),
        np.concatenate([part.relevance for part in parts]),
        np.concatenate([part.query for part in parts]),
        np.concatenate([part.doc for part in parts]),
        np.concatenate([part.test for part in parts]),
        np.concatenate([part.line for part in parts]),
        np.concatenate([part.file for part in parts]),
        files,
    )


@dataclass
class Queries:
    """Queries that may stay, with the first word of the hash of each id."""

    table: pa.Table
    query: np.ndarray

    def origin(self, name: str) -> np.ndarray:
        """Return a mask of the queries of one origin."""
        return np.asarray(pc.equal(self.table.column("origin"), name))

    def select(self, keep: np.ndarray) -> Queries:
        return Queries(self.table.filter(pa.array(keep)), self.query[keep])
