"""The forms of requests and answers of servers that score pairs. Each gives one score for each pair.

- vLLM: ``vllm/entrypoints/pooling/score/protocol.py`` (ScoreRequest, ScoreResponse, RerankRequest, RerankResponse), the same
  in 0.9 to 0.19. Its ``use_activation`` is on unless a request turns it off: a one-logit model then gives a probability.
- Cohere: https://docs.cohere.com/reference/rerank. Jina: https://jina.ai/reranker. Both give ``relevance_score``, 0 to 1.
- Text Embeddings Inference: ``docs/openapi.json`` (RerankRequest, Rank, Info). Its tokens are in the header
  ``x-compute-tokens`` (``router/src/http/server.rs``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inranker_flow.config.sections import Teacher
from inranker_flow.errors import UserError

#: Goes up if the same texts and settings make another request, or its answer another label.
CLIENT_VERSION = 1

#: A probability is taken for no less than this, and for no more than 1 less this: its log odds are finite then.
CLIP = 1e-7
#: The score of a pair whose probability was clipped.
MOST_LOG_ODDS = math.log((1 - CLIP) / CLIP)

Name = Literal["score", "rerank", "tei"]


@dataclass(frozen=True)
class Api:
    """``one_query``: the pairs of a request share their query. ``own``: fields of a request that are not the user's."""

    route: str
    one_query: bool
    own: tuple[str, ...]
    #: Names of a score, and of the list that holds them ("": the answer is the list).
    score: str
    items: str
    #: Fields that ask for logits, and for a cut of what is too long.
    logits: Mapping[str, Any]
    cut: Mapping[str, Any]

    def request(self, model: str, pairs: Sequence[tuple[str, str]], logits: bool) -> dict[str, Any]:
        """Return the request for the scores of ``pairs`` (query, passage)."""
        passages = [passage for _, passage in pairs]
        texts = self.own[-2:]
        query: Any = pairs[0][0] if self.one_query else [each for each, _ in pairs]
        named = {"model": model} if "model" in self.own else {}
        return {**named, **self.cut, **(self.logits if logits else {}), texts[0]: query, texts[1]: passages}


APIS: dict[Name, Api] = {
    "score": Api(
        "score", False, ("model", "text_1", "text_2"), "score", "data",
        logits={"use_activation": False}, cut={"truncate_prompt_tokens": -1},
    ),
    # All documents come back: none of these cuts the list by itself.
    "rerank": Api(
        "rerank", True, ("top_n", "model", "query", "documents"), "relevance_score", "results", logits={}, cut={},
    ),
    "tei": Api(
        "rerank", True, ("query", "texts"), "score", "",
        logits={"raw_scores": True}, cut={"truncate": True},
    ),
}  # fmt: skip


def check_server(teacher: Teacher, section: str) -> None:
    """Raise :class:`UserError` where the settings of its server cannot work; ``section`` is the key of its section."""
    server = teacher.server
    if not server.endpoint:
        raise UserError(
            f"{section}.server.endpoint: missing; the backend server asks the one at http://HOST:PORT",
            code="setting-missing",
        )
    if taken := sorted(set(server.request_fields) & set(APIS[server.api].own)):
        raise UserError(
            f"{section}.server.request_fields: {', '.join(taken)} cannot be set there, as every request has its own "
            f"({section}.checkpoint is the model; all scores are asked for)",
            code="setting-conflict",
        )


def tokens(answer: Any, headers: Mapping[str, str]) -> int:
    """Return the tokens that the server says it read; 0 where it does not say."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    told = (usage or {}).get("total_tokens") if isinstance(usage, dict) else headers.get("x-compute-tokens")
    if told is None and isinstance(answer, dict):
        told = _inside(answer, "meta", "tokens", "input_tokens")
    try:
        return max(int(told or 0), 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def _inside(data: Any, *names: str) -> Any:
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    return data
