"""The requests that clients send, and the answers that they expect.

- Cohere (https://docs.cohere.com/reference/rerank), Jina (https://jina.ai/reranker) and KServe's OpenAI-style route (as vLLM's
  ``/rerank``) send ``query`` and ``documents`` and read ``results`` with ``index`` and ``relevance_score``.
- Text Embeddings Inference (``docs/openapi.json``) sends ``query`` and ``texts`` and reads a list of ``index`` and ``score``.
- The Open Inference Protocol V2 (KServe, Triton) sends and reads named tensors.

What a client sends besides is ignored: every client has fields of its own.
"""

from __future__ import annotations

import codecs
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from inranker_flow.reranker import Passage
from inranker_flow.serving.backends import Pair

Body = TypeVar("Body", bound=BaseModel)


@dataclass
class Refusal(Exception):
    """A request that is not answered with scores: the HTTP ``status``, and one line about what is wrong."""

    status: int
    message: str
    kind: str
    headers: dict[str, str] = field(default_factory=dict)


#: Characters of a shape in a message.
_SHOWN = 80
#: Headers of a refusal that lasts for moments.
AGAIN = {"Retry-After": "1"}


@dataclass(frozen=True)
class Limits:
    """The largest request: ``passages`` in it, characters of a passage and of the query, bytes of the body."""

    passages: int = 1000
    passage_characters: int = 200_000
    query_characters: int = 20_000
    body_bytes: int = 16 * 2**20


class Rerank(BaseModel):
    """A request for the order of passages: those of Cohere, Jina, TEI and OpenAI-style servers."""

    model_config = ConfigDict(strict=True)

    query: str
    #: Texts, or objects with ``text`` and perhaps ``title``.
    documents: list[Any] | None = None
    #: TEI's name of them.
    texts: list[Any] | None = None
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    #: TEI's name of it.
    return_text: bool | None = None
    #: Log odds instead of probabilities.
    raw_scores: bool = False


class Tensor(BaseModel):
    """A named tensor of the V2 protocol."""

    name: str
    data: list[Any]
    datatype: str = "BYTES"
    shape: list[int] = []


class Infer(BaseModel):
    """A request of the V2 protocol: tensors ``query`` (one, or one for each passage) and ``passages``."""

    id: str | None = None
    inputs: list[Tensor]


def parse(kind: type[Body], body: bytes) -> Body:
    """Return the request in ``body``; :class:`Refusal` naming the field that is wrong. It repeats no text of the client's."""
    try:
        return kind.model_validate_json(body.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            said = first["msg"].removeprefix("Invalid JSON: ")
            raise Refusal(400, f"the body is no valid JSON: {said}", "json") from None
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Refusal(422, f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}", "validation") from None


def passages_of(asked: Rerank, limits: Limits) -> list[Passage]:
    """Return the passages of a request, which is looked at whole; :class:`Refusal` for what cannot be scored."""
    if asked.texts is not None and asked.documents is not None:
        raise Refusal(422, "documents, texts: both are given; give the passages under one of these names", "validation")
    name = "texts" if asked.texts is not None else "documents"
    found = asked.texts if asked.texts is not None else asked.documents
    if found is None:
        raise Refusal(
            422, 'documents: missing; give the passages: {"query": "...", "documents": ["...", ...]}', "validation"
        )
    if asked.top_n is not None and asked.top_n < 1:
        raise Refusal(422, f"top_n: {asked.top_n} is below 1; leave it out for all", "validation")
    check_query(asked.query, limits)
    check_passages(found, name, limits)
    return found


def check_query(query: Any, limits: Limits) -> None:
    """Raise :class:`Refusal` for what is no query, or too long a one."""
    if not isinstance(query, str):
        raise Refusal(422, "query: expected a text", "validation")
    if not query.strip():
        raise Refusal(422, "query: empty; give the words that are searched for", "validation")
    if len(query) > limits.query_characters:
        raise Refusal(413, f"query: {len(query):,} characters; at most {limits.query_characters:,}", "too_large")


def check_passages(passages: Sequence[Any], name: str, limits: Limits) -> None:
    """Raise :class:`Refusal` for passages (the field ``name``) that cannot be scored, or are too many or too long."""
    if not passages:
        raise Refusal(422, f"{name}: empty; give at least one passage", "validation")
    if len(passages) > limits.passages:
        said = f"{name}: {len(passages):,} passages; at most {limits.passages:,} in one request"
        raise Refusal(413, said, "too_large")
    for number, each in enumerate(passages):
        if type(each) is str and len(each) <= limits.passage_characters:
            continue
        text, title = (each.get("text"), each.get("title") or "") if isinstance(each, Mapping) else (each, "")
        if not isinstance(text, str) or not isinstance(title, str):
            said = f'{name}[{number}]: expected a text, or an object with "text" and perhaps "title"'
            raise Refusal(422, said, "validation")
        if len(text) + len(title) > limits.passage_characters:
            said = f"{name}[{number}]: {len(text):,} characters; at most {limits.passage_characters:,} in one passage"
            raise Refusal(413, said, "too_large")


def pairs_of(asked: Infer, limits: Limits) -> list[Pair]:
    """Return the pairs that a V2 request asks for; :class:`Refusal` for tensors that hold none."""
    names = [each.name for each in asked.inputs]
    if twice := [name for name in ("query", "passages") if names.count(name) > 1]:
        raise Refusal(422, f"inputs: two tensors are called {twice[0]!r}; give one", "validation")
    given = {each.name: _flat(each) for each in asked.inputs if each.name in ("query", "passages")}
    if missing := [name for name in ("query", "passages") if name not in given]:
        raise Refusal(422, f"inputs: no tensor {missing[0]!r}; query and passages (BYTES) are needed", "validation")
    queries, passages = given["query"], given["passages"]
    if len(queries) not in (1, len(passages)):
        said = f"inputs.query: {len(queries)} queries for {len(passages)} passages; one, or one for each"
        raise Refusal(422, said, "validation")
    for query in queries:
        check_query(query, limits)
    check_passages(passages, "inputs.passages", limits)
    queries = queries * len(passages) if len(queries) == 1 else queries
    return list(zip(queries, passages, strict=True))


def _flat(tensor: Tensor) -> list[Any]:
    """Return the elements of a tensor, which may be nested by its shape."""
    found = tensor.data
    while found and all(isinstance(each, list) for each in found):
        found = [inner for each in found for inner in each]
    if tensor.shape and math.prod(tensor.shape) != len(found):
        said = str(tensor.shape) if len(str(tensor.shape)) <= _SHOWN else "another"
        raise Refusal(422, f"inputs.{tensor.name}: {len(found)} elements, but shape {said}", "validation")
    return found


def ranking(asked: Rerank, passages: Sequence[Passage], margins: np.ndarray, always_documents: bool) -> list[Any]:
    """Return the results, the best first, equal ones in the order in which they were given; scores as they are asked for."""
    order = np.argsort(-margins, kind="stable")[: asked.top_n]
    scores = (margins if asked.raw_scores else probabilities(margins)).tolist()
    if asked.texts is not None:
        return [
            {"index": each, "score": scores[each], **({"text": _text(passages[each])} if asked.return_text else {})}
            for each in order.tolist()
        ]
    show = always_documents if asked.return_documents is None else asked.return_documents
    return [
        {
            "index": each,
            "relevance_score": scores[each],
            **({"document": {"text": _text(passages[each])}} if show else {}),
        }
        for each in order.tolist()
    ]


def answer(asked: Rerank, results: list[Any], model: str) -> Any:
    """Return the body of an answer: TEI's is the list itself."""
    if asked.texts is not None:
        return results
    return {
        "id": str(uuid.uuid4()),
        "object": "rerank",
        "model": model,
        "results": results,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }


def tensors(asked: Infer, margins: np.ndarray, model: str, version: str) -> dict[str, Any]:
    """Return the body of a V2 answer: a tensor of log odds."""
    output = {"name": "scores", "datatype": "FP64", "shape": [len(margins)], "data": margins.tolist()}
    return {"model_name": model, "model_version": version, "id": asked.id or str(uuid.uuid4()), "outputs": [output]}


def metadata(model: str, version: str) -> dict[str, Any]:
    """Return what the V2 protocol tells of a model."""
    texts = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("query", "passages")]
    scores = [{"name": "scores", "datatype": "FP64", "shape": [-1]}]
    return {"name": model, "versions": [version], "platform": "inranker", "inputs": texts, "outputs": scores}


def probabilities(margins: np.ndarray) -> np.ndarray:
    """Return true_logit - false_logit as the probability of true, in [0, 1]."""
    with np.errstate(over="ignore"):
        found: np.ndarray = 1 / (1 + np.exp(-margins))
    return found


def refusal(found: Refusal) -> bytes:
    """Return the body of a refusal, with the names that clients look under."""
    return json.dumps({"message": found.message, "error": found.message, "error_type": found.kind}).encode()


def _text(passage: Passage) -> str:
    return passage if isinstance(passage, str) else str(passage["text"])
