"""Which documents queries are written for: uniformly drawn, or as many from each cluster of the corpus."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from inranker_flow import schemas
from inranker_flow.config import GenerateConfig
from inranker_flow.errors import UserError
from inranker_flow.words import count as count_words
from inranker_flow.words import terms

log = logging.getLogger(__name__)

#: Documents that are clustered at most: a uniform draw of so many stands for the corpus.
_POOL = 100_000
#: Dimensions in which documents are near each other or not.
_FEATURES, _DIMENSIONS = 2**18, 64


@dataclass(frozen=True)
class Document:
    """``text``: title and text as the rest of the project joins them, on one line."""

    doc_id: str
    text: str


@dataclass(frozen=True)
class Sample:
    """The ``documents`` in the order in which they are written for; ``short`` and ``long`` ones were left out."""

    documents: list[Document]
    short: int
    long: int


def sample(config: GenerateConfig, collection: Path) -> Sample:
    """Draw ``config.documents`` documents; which ones depends on ids, texts and seed, not on the order of the corpus.

    uniform: those with the smallest keyed hashes of their ids, so that a smaller sample is the beginning of a larger one.
    One pass over the corpus, and no more texts in memory than may be drawn.
    """
    diverse = config.sampling == "diverse"
    found = _uniform(config, collection, max(config.documents, _POOL) if diverse else config.documents)
    if diverse and len(found.documents) > config.documents:
        return Sample(_diverse(config, found.documents), found.short, found.long)
    return found


def _uniform(config: GenerateConfig, collection: Path, count: int) -> Sample:
    from inranker_flow.corpora import default_text

    least, most = config.min_document_words, config.max_document_words
    short = long = 0
    heap: list[tuple[int, str, str]] = []  # of the negated hashes: the first is the next to leave
    for batch in schemas.read_batches(schemas.CORPUS, collection):
        for doc_id, title, body in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            text = " ".join(default_text(title, body).split())
            words = count_words(text)
            if words < max(least, 1):
                short += 1
            elif most and words > most:
                long += 1
            else:
                item = (-_hash(config.seed, doc_id), doc_id, text)
                if len(heap) < count:
                    heapq.heappush(heap, item)
                elif item > heap[0]:
                    heapq.heapreplace(heap, item)
    return Sample([Document(doc_id, text) for _, doc_id, text in sorted(heap, reverse=True)], short, long)


def _hash(seed: int, doc_id: str) -> int:
    return int.from_bytes(blake2b(doc_id.encode(), digest_size=8, key=str(seed).encode()).digest(), "big")


def _diverse(config: GenerateConfig, pool: Sequence[Document]) -> list[Document]:
    """One from each cluster in turn, in the pool's order, until there are enough: a large topic gets no more than others."""
    clusters = _clusters([each.text for each in pool], min(config.clusters, config.documents), config.seed)
    rounds = np.empty(len(pool), np.int64)
    seen: dict[int, int] = {}
    for place, cluster in enumerate(clusters.tolist()):
        rounds[place] = seen[cluster] = seen.get(cluster, -1) + 1
    log.info("%s documents in %s clusters", f"{len(pool):,}", f"{len(seen):,}")
    chosen = np.argsort(rounds, kind="stable")[: config.documents]
    return [pool[place] for place in chosen.tolist()]


def _clusters(texts: Sequence[str], count: int, seed: int) -> np.ndarray:
    """The cluster of each text: k-means over the directions of its words, weighted by rarity (latent semantic analysis)."""
    try:
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
        from sklearn.preprocessing import normalize
    except ImportError as error:
        raise UserError(
            "generation.sampling: diverse needs scikit-learn, which is not installed here; install it or set it to uniform"
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
