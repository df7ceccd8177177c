"""Which documents queries are written for: uniformly drawn, or as many from each cluster of the corpus.

A hundred thousand long documents are no less than a corpus, so the texts of those that are drawn lie in a file without a
name, and a reader holds one at a time. What is decided by a text alone looks at its beginning, as much as a prompt holds
(:func:`seen`).
"""

from __future__ import annotations

import heapq
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import overload

import numpy as np

from inranker_flow import scratch
from inranker_flow.artifacts import tables
from inranker_flow.config.sections import GenerateConfig
from inranker_flow.corpora.passage import default_text
from inranker_flow.errors import UserError
from inranker_flow.storage.local import disk_errors
from inranker_flow.words import count as count_words
from inranker_flow.words import terms

log = logging.getLogger(__name__)

#: Documents that are clustered at most: a uniform draw of so many stands for the corpus.
_POOL = 100_000
#: Dimensions in which documents are near each other or not.
_FEATURES, _DIMENSIONS = 2**18, 64


#: Characters of a token, at most but for oddities.
_CHARACTERS = 16


class TextFile:
    """Texts in a temporary file, which goes with the process, however that ends."""

    def __init__(self) -> None:
        self._folder, self._end = scratch.root(), 0
        self._file = tempfile.TemporaryFile(dir=self._folder, buffering=2**20)  # noqa: SIM115 - lives as long as its texts

    def add(self, text: str) -> tuple[int, int]:
        """Return the place of the text."""
        content = text.encode()
        place = self._end, len(content)
        with disk_errors(self._folder):
            self._file.write(content)
        self._end += len(content)
        return place

    def close(self) -> None:
        """No text follows."""
        with disk_errors(self._folder):
            self._file.flush()

    def read(self, place: tuple[int, int]) -> str:
        """Return the text that lies there."""
        return os.pread(self._file.fileno(), place[1], place[0]).decode()


@dataclass(frozen=True)
class Document:
    """A document that was drawn; ``place``: where its text lies in ``file``."""

    doc_id: str
    place: tuple[int, int]
    file: TextFile

    @property
    def text(self) -> str:
        """Title and text as the rest of the project joins them, on one line."""
        return self.file.read(self.place)


@dataclass(frozen=True)
class Texts(Sequence[str]):
    """The texts of ``documents``, each read when it is asked for."""

    documents: Sequence[Document]

    def __len__(self) -> int:
        return len(self.documents)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Texts: ...
    def __getitem__(self, place: int | slice) -> str | Texts:
        return Texts(self.documents[place]) if isinstance(place, slice) else self.documents[place].text


class Seen(Mapping[str, str]):
    """doc_id -> what a prompt of ``tokens`` tokens can show of the document's text."""

    def __init__(self, documents: Sequence[Document], tokens: int) -> None:
        self._documents, self._tokens = {each.doc_id: each for each in documents}, tokens

    def __getitem__(self, doc_id: str) -> str:
        return seen(self._documents[doc_id].text, self._tokens)

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)


def seen(text: str, tokens: int) -> str:
    """Return the beginning of a text that so many tokens cover, and more: what follows no model was shown."""
    return text[: tokens * _CHARACTERS]


@dataclass(frozen=True)
class Sample:
    """The ``documents`` in the order in which they are written for; ``short`` and ``long`` ones were left out."""

    documents: list[Document]
    short: int
    long: int


def sample(config: GenerateConfig, collection: Path) -> Sample:
    """Draw ``config.documents`` documents; which ones depends on ids, texts and seed, not on the order of the corpus.

    uniform: those with the smallest keyed hashes of their ids, so that a smaller sample is the beginning of a larger one.
    One pass over the corpus, and one text in memory at a time.
    """
    diverse = config.sampling == "diverse"
    found = _uniform(config, collection, max(config.documents, _POOL) if diverse else config.documents)
    if diverse and len(found.documents) > config.documents:
        return Sample(_diverse(config, found.documents), found.short, found.long)
    return found


def _uniform(config: GenerateConfig, collection: Path, count: int) -> Sample:

    least, most = config.min_document_words, config.max_document_words
    short = long = 0
    heap: list[tuple[int, str, tuple[int, int]]] = []  # of the negated hashes: the first is the next to leave
    file = TextFile()
    for batch in tables.read_batches(tables.CORPUS, collection):
        for doc_id, title, body in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            text = " ".join(default_text(title, body).split())
            words = count_words(text)
            if words < max(least, 1):
                short += 1
            elif most and words > most:
                long += 1
            else:
                drawn = -_hash(config.seed, doc_id), doc_id
                if len(heap) < count:
                    heapq.heappush(heap, (*drawn, file.add(text)))
                elif drawn > heap[0][:2]:
                    # The text of the one that leaves stays in the file: of so many documents few enter so late.
                    heapq.heapreplace(heap, (*drawn, file.add(text)))
    file.close()
    return Sample([Document(doc_id, place, file) for _, doc_id, place in sorted(heap, reverse=True)], short, long)


def _hash(seed: int, doc_id: str) -> int:
    return int.from_bytes(blake2b(doc_id.encode(), digest_size=8, key=str(seed).encode()).digest(), "big")


def _diverse(config: GenerateConfig, pool: Sequence[Document]) -> list[Document]:
    """Return one from each cluster in turn, in the pool's order, until there are enough: a large topic gets no more than
    others."""
    texts = (seen(each, config.max_document_tokens) for each in Texts(pool))
    clusters = _clusters(texts, min(config.clusters, config.documents), config.seed)
    rounds = np.empty(len(pool), np.int64)
    taken: dict[int, int] = {}
    for place, cluster in enumerate(clusters.tolist()):
        rounds[place] = taken[cluster] = taken.get(cluster, -1) + 1
    log.info("%s documents in %s clusters", f"{len(pool):,}", f"{len(taken):,}")
    chosen = np.argsort(rounds, kind="stable")[: config.documents]
    return [pool[place] for place in chosen.tolist()]


def _clusters(texts: Iterable[str], count: int, seed: int) -> np.ndarray:
    """Return the cluster of each text: k-means over the directions of its words, weighted by rarity (latent semantic
    analysis)."""
    try:
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
        from sklearn.preprocessing import normalize
    except ImportError as error:
        raise UserError(
            "generation.sampling: diverse needs scikit-learn, which is not installed here; install it or set it to uniform",
            code="package-missing",
        ) from error
    words = TfidfTransformer(sublinear_tf=True).fit_transform(
        HashingVectorizer(n_features=_FEATURES, alternate_sign=False, norm=None, analyzer=terms).transform(texts)
    )
    words = words[:, words.getnnz(axis=0) > 0]
    dimensions = min(_DIMENSIONS, *(size - 1 for size in words.shape))
    near = normalize(TruncatedSVD(dimensions, random_state=seed).fit_transform(words))
    kmeans = MiniBatchKMeans(count, random_state=seed, batch_size=max(4 * count, 1024), n_init=5)
    labels: np.ndarray = kmeans.fit_predict(near)
    return labels
