"""`render(query, document) -> token ids`: the only template and truncation code of the project.

The teacher, the students in training, evaluation and serving all read exactly these ids, so training and serving
cannot drift apart (in the original code they do: training has no `</s>`, and inference cuts ` Relevant:` off long
documents).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from inranker_flow.errors import UserError

#: Part of every label's identity: change it whenever the ids for some input change.
RENDERER_VERSION = "1"


@dataclass
class Renderer:
    """monoT5's prompt ``Query: {query} Document: {document} Relevant:`` (arXiv 2003.06713, section 3) as token ids.

    ``truncation="document"`` (default): the document is cut so that `` Relevant:`` and ``</s>`` always survive; a query
    that leaves no room for a document is cut too. ``truncation="reference"``: the finished prompt is cut on the right
    and ``</s>`` added, which is what the original inference code does (InRanker, ``rankers.py``).
    """

    tokenizer: Any
    max_length: int = 512
    truncation: Literal["document", "reference"] = "document"
    _suffix: list[int] = field(init=False, repr=False)
    _eos: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._suffix = self._encode([" Relevant:"])[0]
        self._eos = self.tokenizer.eos_token_id
        if self.max_length < len(self._suffix) + 8:
            raise UserError(f"max_length: {self.max_length} leaves no room for a query and a document; use 16 or more")

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def encode_queries(self, queries: Sequence[str]) -> list[list[int]]:
        """Token ids of ``Query: {query}``, one list for each query."""
        return self._encode([f"Query: {query}" for query in queries])

    def encode_documents(self, documents: Sequence[str]) -> list[list[int]]:
        """Token ids of ``Document: {document}``, one list for each document."""
        return self._encode([f"Document: {document}" for document in documents])

    def assemble(self, query_ids: Sequence[int], document_ids: Sequence[int]) -> list[int]:
        """Ids of one prompt from parts that were tokenised once; at most ``max_length`` long, ``</s>`` included."""
        if self.truncation == "reference":
            prompt = [*query_ids, *document_ids, *self._suffix]
            return [*prompt[: self.max_length - 1], self._eos]
        room = self.max_length - len(self._suffix) - 1
        query_ids = query_ids[: max(room // 2, room - len(document_ids))]
        return [*query_ids, *document_ids[: room - len(query_ids)], *self._suffix, self._eos]

    def render(self, query: str, document: str) -> list[int]:
        """Ids of one prompt."""
        return self.assemble(self.encode_queries([query])[0], self.encode_documents([document])[0])
