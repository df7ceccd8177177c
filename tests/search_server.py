"""Answers `_msearch` in the form that OpenSearch and Elasticsearch document, over texts that it was given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.http_server import Answer, HttpServer, Request

#: A response, as documented: https://docs.opensearch.org/latest/api-reference/search-apis/multi-search/
RESPONSE = {"took": 2, "timed_out": False, "_shards": {"total": 2, "successful": 2, "skipped": 0, "failed": 0}}


class SearchServer(HttpServer):
    """Scores by how many words a text shares with the query; of equal scores the last id first, as no order is promised.

    ``trouble``: what becomes of each answer's dict, in turn; then nothing does.
    """

    def __init__(self, texts: Mapping[str, str], *trouble: Callable[[dict[str, Any]], Any], field: str = "") -> None:
        super().__init__()
        self.texts, self.trouble, self.field = texts, list(trouble), field
        self.sizes: list[int] = []

    def answer(self, request: Request) -> Answer:
        assert request.path == "/handbook/_msearch" and request.headers["Content-Type"] == "application/x-ndjson"
        assert request.body.endswith(b"\n")
        lines = [json.loads(line) for line in request.body.splitlines()]
        assert lines[::2] == [{}] * (len(lines) // 2)
        found = {"took": 3, "responses": [self._search(body) for body in lines[1::2]]}
        answer = self.trouble.pop(0)(found) if self.trouble else found
        return answer if isinstance(answer, Answer) else Answer(200, answer)

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        self.sizes.append(body["size"])
        words = set(body["query"]["match"]["text"].split())
        scores = {doc_id: len(words & set(text.split())) for doc_id, text in self.texts.items()}
        best = sorted((doc_id for doc_id in scores if scores[doc_id]), key=lambda each: (scores[each], each))[::-1]
        hits = [
            {
                "_index": "handbook",
                "_id": f"internal-{doc_id}" if self.field else doc_id,
                "_score": float(scores[doc_id]),
                **({"_source": {self.field: doc_id}} if body["_source"] == [self.field] else {}),
            }
            for doc_id in best[: body["size"]]
        ]
        total = {"value": len(best), "relation": "eq"}
        return {**RESPONSE, "hits": {"total": total, "max_score": 1.0, "hits": hits}, "status": 200}
