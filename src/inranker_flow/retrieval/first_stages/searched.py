"""An index of OpenSearch or Elasticsearch as a first stage: both answer the same `_msearch`.

Equal scores stand there in an order of the index's own. So one hit more than is wanted is asked for, and many more where that
one's score is the last one's: then all of equal score are known, and the first doc_ids count.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import urllib3

from inranker_flow.config.retrieval import RetrieveConfig, SearchServerConfig
from inranker_flow.environment import variables
from inranker_flow.errors import CollectionFault, UserError
from inranker_flow.retrieval.first_stage import Asked, Found, Queries, passages_of
from inranker_flow.retrieval.search_body import filled, read_body
from inranker_flow.services.endpoint import Address, Endpoint

#: What an index gives at most, where nobody has set its `max_result_window`.
MOST = 10_000
#: Statuses of one search that pass: too many at a time, a node in trouble.
_AGAIN = {408, 429, *range(500, 600)}

#: (id, score) of one search, as they came.
Hits = list[tuple[str, float]]


class SearchServer:
    """The index of the settings. Usable from many threads. Raises :class:`UserError` for settings that cannot be asked with."""

    def __init__(self, config: SearchServerConfig) -> None:
        self._config = config
        self._body = json.loads(read_body(config))
        if not config.index:
            raise UserError("retrieval.server.index: is missing: the index to search", code="setting-missing")
        route = f"{config.index}/_msearch"
        self._endpoint = Endpoint(
            Address(
                url=config.endpoint,
                setting="retrieval.server.endpoint",
                variable=variables.SEARCH_KEY,
                form="http://HOST:9200",
                route=route,
                concurrency=config.concurrency,
                timeout=config.request_timeout,
                retries=config.retries,
                key=variables.search_key(),
                secret="inranker-hub",
                instead="first_stage",
                content_type="application/x-ndjson",
            )
        )
        self._route = route

    def ask(self, queries: Sequence[str], size: int) -> list[Hits]:
        """Return the hits of each query, as many as ``size``. An answer that is partial is asked for again, and never taken."""
        field = self._config.id_field
        wanted = {"size": size, "_source": [field] if field else False}
        lines = [line for query in queries for line in ({}, {**filled(self._body, query), **wanted})]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        return self._endpoint.exchange("POST", self._route, data, lambda answer: self._read(answer, queries))

    def _read(self, answer: urllib3.BaseHTTPResponse, queries: Sequence[str]) -> list[Hits]:
        found = json.loads(answer.data)
        items = found.get("responses") if isinstance(found, dict) else None
        if not isinstance(items, list) or len(items) != len(queries):
            raise self._foreign(f"answers {str(found)[:200]} where {len(queries)} responses are due")
        return [self._hits(item, query) for item, query in zip(items, queries, strict=True)]

    def _hits(self, item: Any, query: str) -> Hits:
        """Raises ValueError for a search that should be asked for again."""
        error = item.get("error") if isinstance(item, dict) else "no search"
        if error:
            said = " ".join(json.dumps(error).split())[:300]
            status = item.get("status") if isinstance(item, dict) else None
            if status in _AGAIN:
                raise ValueError(f"a search that failed: {said}")
            # What is asked is wrong; any other status is about the index, whoever asks.
            raise (CollectionFault if status == 400 else UserError)(
                f"{self._endpoint.url}/{self._config.index}: refuses to search for {query[:80]!r}: {said}; correct "
                "retrieval.server.index or .body",
                code="search-refused",
            )
        shards = item.get("_shards")
        failed = shards.get("failed", 0) if isinstance(shards, dict) else 0
        if item.get("timed_out") or item.get("terminated_early") or failed:
            raise ValueError(f"a partial result ({failed} shards failed)" if failed else "a partial result (timed_out)")
        try:
            hits = [(self._id(hit), _score(hit["_score"])) for hit in item["hits"]["hits"]]
        except (KeyError, TypeError, OverflowError) as error:
            raise self._foreign(f"gives a hit without id or score ({error}): {str(item)[:200]}") from error
        twice = next((doc_id for doc_id, times in Counter(doc_id for doc_id, _ in hits).items() if times > 1), None)
        if twice is not None:
            raise CollectionFault(
                f"{self._endpoint.url}/{self._config.index}: finds {twice!r} twice for {query[:80]!r}; its entries must be the "
                "collection's passages: set retrieval.server.id_field to the field with a passage's own id",
                code="search-refused",
            )
        return hits

    def _id(self, hit: dict[str, Any]) -> str:
        field = self._config.id_field
        found = hit["_id"] if not field else hit["_source"][field]
        if not isinstance(found, str | int) or isinstance(found, bool):
            raise TypeError(f"{field or '_id'} is {found!r}")
        str(found).encode()  # half of a surrogate pair is no id
        return str(found)

    def _foreign(self, what: str) -> UserError:
        return UserError(
            f"{self._endpoint.url}: {what}; retrieval.server.endpoint must be an OpenSearch or Elasticsearch, and its body "
            "no search with a sort of its own",
            code="server-refused",
        )


class Searched:
    """Asks an index for the passages of a collection, which have the same ids there."""

    def __init__(self, config: RetrieveConfig, collection: Path, queries: int) -> None:
        self._config, self._server = config.server, SearchServer(config.server)
        self._most_vain, self._collection = config.max_without_hits, collection
        self.passages = passages_of(collection)
        self._pool = ThreadPoolExecutor(config.server.concurrency)
        self._asked: Mapping[str, Asked] = {}

    def check(self, asked: Mapping[str, Asked]) -> None:
        """Nothing is known of them before they are asked."""

    def find(self, batches: Iterable[Queries], depth: int) -> Iterator[list[Found]]:
        size = self._config.request_queries
        total = vain = 0
        for batch in batches:
            parts = [batch.texts[first : first + size] for first in range(0, len(batch.texts), size)]
            found = [hits for part in self._pool.map(lambda part: self._complete(part, depth), parts) for hits in part]
            total, vain = total + len(found), vain + sum(not hits for hits in found)
            yield [self._best(hits, depth) for hits in found]
        if vain > self._most_vain * total:
            raise CollectionFault(
                f"{self._collection}: {vain:,} of {total:,} queries find nothing in the index {self._config.index}; correct "
                "retrieval.server.index or .body; retrieval.max_without_hits: 1 goes on all the same",
                code="queries-find-nothing",
            )

    def _complete(self, queries: Sequence[str], depth: int) -> list[Hits]:
        """Return at least the best ``depth`` hits of each query, and all whose score is the last one's."""
        found = self._server.ask(queries, depth + 1)
        size = depth + 1
        while open_ := [place for place, hits in enumerate(found) if _tied(hits, depth, size)]:
            size = min(4 * size, MOST) if size < MOST else 4 * size  # beyond it, the index refuses or was told not to
            again = self._server.ask([queries[place] for place in open_], size)
            for place, hits in zip(open_, again, strict=True):
                found[place] = hits
        return found

    def _best(self, hits: Hits, depth: int) -> Found:
        doc_ids = pa.array([doc_id for doc_id, _ in hits], pa.large_string())
        places = pc.index_in(doc_ids, value_set=self.passages.doc_ids)
        if places.null_count:
            lost = doc_ids[pc.index(places.is_null(), True).as_py()].as_py()
            raise CollectionFault(
                f"retrieval.server.index: {self._config.index} holds {lost!r}, which {self._collection} lacks; index the "
                "collection as it is, or set retrieval.server.id_field to the field with its ids",
                code="reference-lost",
            )
        found = places.to_numpy(zero_copy_only=False).astype(np.int64)
        scores = np.array([score for _, score in hits], np.float64)
        best = np.lexsort((found, -scores))[:depth]
        return found[best], scores[best]

    def forget(self) -> None:
        """Nothing was written."""

    def __enter__(self) -> Searched:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def _score(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise TypeError(f"_score is {value!r}")
    return number


def _tied(hits: Hits, depth: int, size: int) -> bool:
    """Return whether passages of the last one's score may be missing from the ``size`` that were asked for."""
    return len(hits) == size and hits[-1][1] == hits[depth - 1][1]
