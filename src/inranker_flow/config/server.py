"""The section of a profile that says how a server which scores pairs is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from inranker_flow.config.rules import NO_RESULT, Range
from inranker_flow.config.values import Concurrency, Count, Retries, ServerAddress, Timeout


@dataclass(frozen=True)
class ServerConfig:
    """A server that gives one score for each pair, for `backend: server`."""

    #: The address before the route: http://HOST:PORT for vLLM (/score, /rerank) and TEI (/rerank), https://api.cohere.com/v2,
    #: https://api.jina.ai/v1. Its key is TEACHER_API_KEY's value.
    endpoint: ServerAddress = ""
    #: score: vLLM's /score. rerank: /rerank of vLLM, Cohere, Jina and those like them. tei: /rerank of Hugging Face's Text
    #: Embeddings Inference.
    api: Literal["score", "rerank", "tei"] = "score"
    #: logit: a score s is the logits (-s/2, s/2); vLLM's /score and TEI are asked for scores before the sigmoid.
    #: probability: the score is one (Cohere, Jina, vLLM's /rerank as it is), and its log odds are taken.
    scores: Literal["logit", "probability"] = "logit"
    #: Characters of a passage that are sent; 0: all. Queries go whole. vLLM's /score and TEI are asked to cut what their
    #: model cannot read; Cohere and Jina cut by themselves.
    passage_characters: Count = 0
    #: More fields of each request, as the server wants them: {truncate_prompt_tokens: 512}, {max_tokens_per_doc: 1024}.
    request_fields: dict[str, Any] = field(default_factory=dict)
    #: Pairs in one request (TEI takes 32 unless it was started with more); of /rerank they share a query.
    request_pairs: Annotated[int, Range(1, 10_000), NO_RESULT] = 32
    #: Requests that are under way at a time.
    concurrency: Concurrency = 16
    #: Seconds until a request counts as lost.
    request_timeout: Timeout = 120.0
    #: How often a lost request is sent again.
    retries: Retries = 8
