"""A bi-encoder as a first stage: kept vectors of the passages, and an exact search of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.retrieval import bi_encoder, vectors
from inranker_flow.retrieval.first_stage import Asked, Found, Queries
from inranker_flow.retrieval.nearest import Nearest


class Dense:
    """The nearest passages by the vectors of `retrieval.dense.checkpoint`. Every query finds as many as it asks for."""

    def __init__(self, config: RetrieveConfig, collection: Path, queries: int) -> None:
        self._encoder = bi_encoder.BiEncoder(config.dense)
        identity = bi_encoder.identity(config.dense)
        held = vectors.build(collection, identity, self._encoder.dimensions, self._encoder.passages)
        self.passages, self._folder = held.passages, held.folder
        self._nearest = Nearest(held.vectors, self._encoder.device)

    def check(self, asked: Mapping[str, Asked]) -> None:
        """Nothing can be wrong with them."""

    def find(self, batches: Iterable[Queries], depth: int) -> Iterator[list[Found]]:
        for batch in batches:
            yield self._nearest.find(self._encoder.queries(batch.texts), depth)

    def forget(self) -> None:
        shutil.rmtree(self._folder.parent, ignore_errors=True)

    def __enter__(self) -> Dense:
        return self

    def __exit__(self, *_: object) -> None:
        """Vectors are mapped and go with the process."""
