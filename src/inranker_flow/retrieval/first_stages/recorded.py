"""The run files of a collection as a first stage: what another system found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.errors import CollectionFault
from inranker_flow.retrieval.first_stage import Asked, Found, Queries, passages_of


class Recorded:
    """The rows of a collection's run, by their scores; their ranks are not looked at, as trec_eval does not."""

    def __init__(self, config: RetrieveConfig, collection: Path, queries: int) -> None:
        self.passages = passages_of(collection)
        if not (collection / tables.RUN.filename).is_file():  # of the folders of `corpora.uri`, which name no run files
            raise CollectionFault(
                f"{collection}: has no run file, and a first stage is run; name what was found for its queries as its `runs`, or "
                "take another first stage",
                code="run-incomplete",
            )
        run = tables.read(tables.RUN, collection)
        places = pc.index_in(run.column("doc_id").cast(pa.large_string()), value_set=self.passages.doc_ids)
        found = np.asarray(places.combine_chunks())
        query_ids = run.column("query_id").unique()
        query = np.asarray(pc.index_in(run.column("query_id"), value_set=query_ids).combine_chunks())
        scores = run.column("score").to_numpy()
        order = np.lexsort((found, -scores, query))
        self._places, self._scores = found[order].astype(np.int64), scores[order]
        self._starts = np.searchsorted(query[order], np.arange(len(query_ids) + 1))
        self._numbers = {query_id: number for number, query_id in enumerate(query_ids.to_pylist())}
        #: What was found for these is no part of the collection, of whose documents some were drawn.
        self._nothing = frozenset(read_manifest(collection).details.get("found_nothing", ()))

    def check(self, asked: Mapping[str, Asked]) -> None:
        """Raise :class:`CollectionFault` for queries that no run file has."""
        for kind, each in asked.items():
            known = self._numbers.keys() | self._nothing
            lost = [query_id for query_id in each.queries.ids if query_id not in known]
            if lost:
                raise CollectionFault(
                    f"{each.where}: {len(lost):,} of {len(each.queries.ids):,} {kind} queries are in no run file of the "
                    f"collection, such as {lost[0]!r}; add what was found for them to its `runs`",
                    code="run-incomplete",
                )

    def find(self, batches: Iterable[Queries], depth: int) -> Iterator[list[Found]]:
        for batch in batches:
            yield [self._best(query_id, depth) for query_id in batch.ids]

    def _best(self, query_id: str, depth: int) -> Found:
        number = self._numbers.get(query_id)
        if number is None:
            return self._places[:0], self._scores[:0]
        first, end = self._starts[number], self._starts[number + 1]
        here = slice(first, min(end, first + depth))
        return self._places[here], self._scores[here]

    def forget(self) -> None:
        """Nothing was written."""

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""
