"""Queries that nobody trains on: what a student is measured by where nobody has judged anything.

They are split off before anything is labelled, and by whole groups: a document with all of its queries, with the documents
that say nearly the same, and with the queries that are nearly equal. Else a student would be asked what it was trained on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.evaluation.leaks import Finder
from inranker_flow.words import normal, terms

log = logging.getLogger(__name__)

#: `tables.QUERIES`' origin of these.
ORIGIN = "held_out"
#: Documents are nearly the same where the shorter one shares this much of its sequences of so many words.
_SHARED, _WORDS = 0.5, 5
#: One query of so many is held out at most: the others train the student.
OF = 5
#: A group with more than this share of what is wanted goes to training: it would stand for the corpus.
_LARGEST = 0.1


def split(
    queries: pa.Table, wanted: int, passages: Mapping[str, str], document_of: Mapping[str, str], similarity: float
) -> pa.Table:
    """Return ``queries`` (`tables.QUERIES`) where the origin of up to ``wanted`` of them is ``held_out`` now.

    ``passages``: doc_id -> text, of every query that was written for one. ``document_of``: passage -> document, where
    documents were cut. ``similarity``: of the letters of two queries that count as one (as in the leak check). Which ones are
    taken depends on texts alone, neither on ids nor on a seed, so that a corpus that has grown holds out what it held out
    before.
    """
    most = min(wanted, queries.num_rows // OF)
    chosen = _choose(_Units(queries, passages, document_of), most, similarity) if most else set()
    if len(chosen) < wanted:
        log.warning(
            "%s of the %s queries that evaluation.synthetic_queries asks for can be held out: there are %s, of which one in %d "
            "at most is, with all that are like it",
            f"{len(chosen):,}", f"{wanted:,}", f"{queries.num_rows:,}", OF,
        )  # fmt: skip
    held = pa.array([row in chosen for row in range(queries.num_rows)], pa.bool_())
    origin = pc.if_else(held, ORIGIN, queries.column("origin"))
    return queries.set_column(queries.schema.get_field_index("origin"), queries.schema.field("origin"), origin)


class _Units:
    """What is held out as a whole: a document with its queries, or a query that people asked."""

    def __init__(self, queries: pa.Table, passages: Mapping[str, str], document_of: Mapping[str, str]) -> None:
        self._passages = passages
        self.texts: list[str] = queries.column("text").to_pylist()
        self._sources: list[str | None] = queries.column("source_doc_id").to_pylist()
        #: Unit -> rows. A row without a document is a unit of its own.
        self.rows: dict[str | int, list[int]] = {}
        for row, passage in enumerate(self._sources):
            self.rows.setdefault(row if passage is None else document_of.get(passage, passage), []).append(row)

    def document(self, unit: str | int) -> str:
        """Return the text of its document, as far as queries were written for it; "" where it has none."""
        found = dict.fromkeys(self._sources[row] for row in self.rows[unit])
        return "\n".join(self._passages[each] for each in found if each is not None)

    def order(self) -> list[str | int]:
        """Return the units in an order that follows from their texts."""

        def key(unit: str | int) -> tuple[bytes, str]:
            text = self.document(unit) or self.texts[self.rows[unit][0]]
            return blake2b(normal(text).encode(), digest_size=8).digest(), str(unit)

        return sorted(self.rows, key=key)


def _choose(units: _Units, most: int, similarity: float) -> set[int]:
    """Return the rows of whole groups, ``most`` at most."""
    order = units.order()
    chosen: set[int] = set()
    start = 0
    # Twice what is missing, for some groups are too large; again until there is enough or no unit is left.
    while len(chosen) < most and start < len(order):
        first = order[start : start + 2 * (most - len(chosen))]
        start += len(first)
        for group in _groups(units, first, similarity):
            rows = [row for unit in group for row in units.rows[unit]]
            small = len(group) == 1 or len(rows) <= max(_LARGEST * most, 2)
            if small and len(chosen) + len(rows) <= most:
                chosen.update(rows)
    return chosen


def _groups(units: _Units, first: Sequence[str | int], similarity: float) -> list[list[str | int]]:
    """Return the groups that hold the units ``first``, in their order: each with everything that is like one of its own."""
    parents: dict[str | int, str | int] = {unit: unit for unit in first}

    def root(unit: str | int) -> str | int:
        while parents[unit] != unit:
            parents[unit] = parents[parents[unit]]
            unit = parents[unit]
        return unit

    new: Iterable[str | int] = list(first)
    while new := list(new):
        likeness = _alike(units, new, similarity)
        found: dict[str | int, None] = {}
        for unit in units.rows:
            for other in likeness(unit):
                if unit not in parents:
                    parents[unit] = unit
                    found[unit] = None
                parents[root(unit)] = root(other)
        new = found
    groups: dict[str | int, list[str | int]] = {}
    for unit in parents:
        groups.setdefault(root(unit), []).append(unit)
    return list(groups.values())


def _alike(units: _Units, some: Sequence[str | int], similarity: float) -> Callable[[str | int], Iterator[str | int]]:
    """Return a function that yields those of ``some`` to which a unit is nearly equal, by document or by query."""
    owners = [unit for unit in some for _ in units.rows[unit]]
    finder = Finder([units.texts[row] for unit in some for row in units.rows[unit]], similarity)
    sequences = {unit: found for unit in some if (found := _sequences(units.document(unit)))}
    holders: dict[int, list[str | int]] = {}
    for unit, found in sequences.items():
        for each in found:
            holders.setdefault(each, []).append(unit)

    def alike(unit: str | int) -> Iterator[str | int]:
        for row in units.rows[unit]:
            for place, _ in finder.find(units.texts[row]):
                if owners[place] != unit:
                    yield owners[place]
        own = _sequences(units.document(unit))
        shared: dict[str | int, int] = {}
        for each in own & holders.keys():
            for other in holders[each]:
                shared[other] = shared.get(other, 0) + 1
        for other, count in shared.items():
            if other != unit and count >= _SHARED * min(len(own), len(sequences[other])):
                yield other

    return alike


def _sequences(text: str) -> Set[int]:
    """Return hashes of all sequences of words in a text; a shorter one is a sequence itself."""
    words = terms(text)
    return (
        {hash(tuple(words[start : start + _WORDS])) for start in range(max(len(words) - _WORDS + 1, 1))}
        if words
        else set()
    )
