"""BM25 as a first stage: an index on the disk, and processes that search it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from inranker_flow import cpus
from inranker_flow.artifacts import tables
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.errors import CollectionFault
from inranker_flow.retrieval import index
from inranker_flow.retrieval.analyser import Analyser
from inranker_flow.retrieval.bm25 import BM25
from inranker_flow.retrieval.first_stage import Asked, Found, Passages, Queries
from inranker_flow.retrieval.searchers import Searchers
from inranker_flow.retrieval.searching import PARALLEL_FROM, build_index

log = logging.getLogger(__name__)

#: A share of queries without a hit that is worth a word.
_MANY = 0.5
#: Characters of a query in a message.
_SHOWN = 80


class Sparse:
    """BM25 over a collection; ``queries`` is about how many will be asked, which decides how many processes answer."""

    def __init__(self, config: RetrieveConfig, collection: Path, queries: int) -> None:
        self._config = config
        Analyser(config)  # settings that do not exist are said before anything is read
        self._folder = build_index(config, collection)
        held = index.load(self._folder, config)
        self.passages, self._terms = Passages(held.doc_ids, held.marks), held.terms
        much = queries * tables.count(tables.CORPUS, collection) >= PARALLEL_FROM
        self._processes = cpus.available() if much else 1
        self._searchers: Searchers | None = None

    def check(self, asked: Mapping[str, Asked]) -> None:
        """Raise :class:`CollectionFault` where most queries share no word with any passage: they would find nothing."""
        analyser = Analyser(self._config, self._terms)
        for kind, each in asked.items():
            texts = each.queries.texts
            vain = np.flatnonzero(analyser(texts)[1] == 0)
            if len(vain) <= min(_MANY, self._config.max_without_hits) * len(texts):
                continue
            stemmer, stopwords = (
                repr(name) if name else "none" for name in (self._config.stemmer, self._config.stopwords)
            )
            told = (
                f"{each.where}: {len(vain):,} of {len(texts):,} {kind} queries ({len(vain) / len(texts):.0%}) find nothing, "
                f"such as {_shown(texts[vain[0]])}: no passage holds a word of them (stemmer {stemmer}, stop words "
                f"{stopwords})"
            )
            if len(vain) > self._config.max_without_hits * len(texts):
                self.forget()  # another language is another index
                raise CollectionFault(
                    f"{told}; are queries and passages of one language? Then set `language` of the collection to it, or change "
                    "retrieval.stemmer and retrieval.stopwords; retrieval.max_without_hits: 1 goes on all the same",
                    code="queries-find-nothing",
                )
            log.warning("%s", told)

    def find(self, batches: Iterable[Queries], depth: int) -> Iterator[list[Found]]:
        if self._searchers is None:
            self._searchers = Searchers(self._folder, self._config, self._processes)
        return self._searchers.map(_find, ((batch.texts, depth) for batch in batches))

    def forget(self) -> None:
        shutil.rmtree(self._folder.parent, ignore_errors=True)

    def __enter__(self) -> Sparse:
        return self

    def __exit__(self, *_: object) -> None:
        if self._searchers is not None:
            self._searchers.close()


def _find(bm25: BM25, task: tuple[list[str], int]) -> list[Found]:
    return bm25.find(*task)


def _shown(text: str) -> str:
    """Return a text on one line, shortened."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")
