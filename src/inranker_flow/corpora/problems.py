"""What is wrong with the data: counted by kind, with file and line, and refused or repaired as the setting says."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from inranker_flow.errors import CollectionFault

log = logging.getLogger(__name__)


class BadCollection(CollectionFault):
    """A fault in a collection itself. It may be remembered."""


#: Examples of each kind that are kept for the manifest, and the characters of each: a value may be a whole book.
EXAMPLES, EXAMPLE_CHARACTERS = 5, 300

#: Kinds that a repair drops, with how a person would call them. Everything else that is reported is harmless.
BROKEN = {
    "wrong_encoding": "rows that are not UTF-8",
    "malformed": "malformed rows",
    "duplicate_document_id": "documents whose id was seen before",
    "empty_document": "documents without any text",
    "duplicate_query_id": "queries whose id was seen before",
    "empty_query": "queries without any text",
    "bad_relevance": "judgements whose relevance is not a whole number",
    "unknown_query": "judgements of a query that is not there",
    "unknown_document": "judgements of a document that is not there",
    "leak": "queries that are in the training and in the test split",
    "duplicate_label": "soft labels of a pair that was labelled before",
    "label_unknown_query": "soft labels of a query that is not there",
    "label_unknown_document": "soft labels of a document that is not there",
    "run_unknown_document": "rows of a run about a document that is not there",
    "duplicate_run_row": "rows of a run whose query and document were seen before",
    "label_of_test_query": "soft labels of a test query",
}
#: Kinds that are only reported: the same text under two ids is common and breaks nothing; a query that nobody judged
#: can neither train nor test anything and is left out; a pair is judged twice by sub-topic, by span or by two assessors.
HARMLESS = {
    "duplicate_judgement": "judgements of a pair that was judged before (the highest grade counts)",
    "duplicate_text": "documents whose text another document has too (kept)",
    "unjudged_query": "queries without any judgement (left out)",
    "run_unknown_query": "rows of a run about a query that is not there (not used: another split's?)",
    "wordless_query": "queries of the log without a letter or a digit (left out)",
}


@dataclass(frozen=True)
class Rows:
    """A batch: ``columns`` of equally many values, the ``lines`` of ``file`` they stand in, ``amount`` for progress."""

    file: str
    lines: Sequence[int]
    columns: tuple[list[Any], ...]
    amount: int

    def select(self, keep: np.ndarray) -> Rows:
        """Return the rows where ``keep`` (boolean, one for each)."""
        if keep.all():
            return self
        columns = tuple([value for value, stays in zip(column, keep, strict=True) if stays] for column in self.columns)
        return Rows(
            self.file, [line for line, stays in zip(self.lines, keep, strict=True) if stays], columns, self.amount
        )


@dataclass
class Found:
    """One kind of problem: how many rows, and the first few as {file, line, what}."""

    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


class Problems:
    """Collects what is wrong. ``on_problem`` is ``refuse`` or ``repair``."""

    def __init__(self, on_problem: Literal["refuse", "repair"]) -> None:
        self.on_problem = on_problem
        self.found: dict[str, Found] = {}

    def add(self, kind: str, file: str, line: int, what: str) -> None:
        """Report one row. ``line`` counts from 1 (rows for Parquet and ir_datasets)."""
        found = self.found.setdefault(kind, Found())
        found.count += 1
        if len(found.examples) < EXAMPLES:
            what = what if len(what) <= EXAMPLE_CHARACTERS else f"{what[:EXAMPLE_CHARACTERS]}..."
            found.examples.append({"file": file, "line": int(line), "what": what})

    def add_rows(self, kind: str, rows: Rows, bad: np.ndarray, what: str) -> None:
        """Report the rows where ``bad`` (boolean); ``what`` is a format string over the columns: {0}, {1}, ..."""
        for at in map(int, np.flatnonzero(bad)):
            self.add(kind, rows.file, rows.lines[at], what.format(*(column[at] for column in rows.columns)))

    def check(self) -> None:
        """Called when a file has been read whole: under ``refuse`` raises one line about what has been found."""
        broken = [(kind, found) for kind, found in self.found.items() if kind in BROKEN]
        if not broken or self.on_problem == "repair":
            return
        kind, found = broken[0]
        first = found.examples[0]
        others = ", ".join(f"{other.count:,} {BROKEN[name]}" for name, other in broken[1:])
        raise BadCollection(
            f"{first['file']} line {first['line']}: {first['what']}; {found.count:,} {BROKEN[kind]} in all"
            f"{f', and {others}' if others else ''}; mend the data, or set on_problem=repair to drop them",
            code="collection-row",
        )

    @property
    def dropped(self) -> int:
        """Rows that a repair has dropped."""
        return sum(found.count for kind, found in self.found.items() if kind in BROKEN)

    def count(self, kind: str) -> int:
        """Return rows of one kind."""
        return self.found[kind].count if kind in self.found else 0

    def log(self) -> None:
        """One warning for each kind."""
        for kind, found in self.found.items():
            first = found.examples[0]
            verb = "dropped" if kind in BROKEN else "found"
            log.warning(
                "%s %s %s, the first: %s line %s: %s",
                verb, f"{found.count:,}", {**BROKEN, **HARMLESS}[kind], first["file"], first["line"], first["what"],
            )  # fmt: skip

    def as_list(self) -> list[dict[str, Any]]:
        """For the manifest: [{kind, count, examples}]."""
        return [{"kind": kind, "count": each.count, "examples": each.examples} for kind, each in self.found.items()]
