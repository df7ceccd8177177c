"""Causal language models that answer a prompt with one of two words (as Qwen3-Reranker does, arXiv 2506.05176)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers import known_beginning, templates
from inranker_flow.rankers.checkpoints import label_token_ids, load_generator
from inranker_flow.rankers.devices import pick_device, pick_dtype
from inranker_flow.rankers.pair_prompts import Frame, PairRanker, PairReader

if TYPE_CHECKING:
    from torch import Tensor


class CausalReader(PairReader):
    """Template, tokenizer and answers. The ids are those of the whole prompt, cut in the document."""

    padding: Literal["left", "right"] = "left"

    def __init__(self, reference: str, tokenizer: Any, scoring: ScoringConfig) -> None:
        super().__init__(reference, tokenizer, scoring)
        template = templates.load(scoring.prompt, scoring.instruction)
        # Without a word for false the score is the logit of the other alone.
        answers = scoring.false_token or scoring.true_token, scoring.true_token
        kind = "reranker that answers with it"
        self.labels = label_token_ids(tokenizer, *answers, kind, alone=not scoring.false_token)
        _check_marks(tokenizer, template)
        self._pieces = pieces = templates.pieces(template)
        self.before_query = pieces.query_context + pieces.query_space
        self.before_document = pieces.document_context + pieces.document_space
        after = [*self._following("a", [pieces.joined])[0], *self._apart(pieces.closing)]
        self._middle = self._apart(pieces.middle)
        [between] = self._following("a", [pieces.between])
        self.frame = Frame(self._apart(pieces.beginning), [*between, *self._middle], after, scoring.max_length)

    def _apart(self, pieces: Sequence[str]) -> list[int]:
        return [each for ids in self.tokenise(list(filter(None, pieces))) for each in ids] if any(pieces) else []

    def encode_queries(self, queries: list[str]) -> list[list[int]]:
        pieces = self._pieces
        texts = [f"{pieces.query_space}{query}{pieces.between}" for query in queries]
        return [[*ids, *self._middle] for ids in self._following(pieces.query_context, texts)]

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        pieces = self._pieces
        return self._following(pieces.document_context, [f"{pieces.document_space}{text}" for text in documents])

    def _following(self, context: str, texts: list[str]) -> list[list[int]]:
        """Return ids of ``texts`` as they are after ``context``: some tokenizers begin a text otherwise than they continue
        one.

        A text that the tokenizer joins with the context is encoded by itself.
        """
        [known] = self.tokenise([context])
        found = self.tokenise([context + text for text in texts])
        return [
            ids[len(known) :] if ids[: len(known)] == known else self.tokenise([text])[0]
            for ids, text in zip(found, texts, strict=True)
        ]


class CausalRanker(PairRanker):
    """The logits of two words as the next token after a prompt; only the last position's two are computed.

    Every prompt begins alike, up to the query: keys and values of that beginning are computed once, where the model's
    attention allows.
    """

    def __init__(self, reference: str, scoring: ScoringConfig, revision: str = "") -> None:
        device = pick_device()
        templates.load(scoring.prompt, scoring.instruction)  # refused before a large model is read
        model, tokenizer = load_generator(reference, revision, pick_dtype(scoring.dtype, device))
        if model.config.is_encoder_decoder:
            raise UserError(
                f"{reference}: a {model.config.model_type} checkpoint is no causal language model",
                code="checkpoint-kind",
            )
        reader = CausalReader(reference, tokenizer, scoring)
        super().__init__(reference, model, reader, scoring, device)
        _two_words(model, reader.labels)
        #: Whether the score is the logit of one word.
        self._one = reader.labels[0] == reader.labels[1]
        parameters = inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._positions = "position_ids" in parameters
        found = known_beginning.compute(model, list(reader.frame.before))
        self._cache = found.to_read() if found else None
        self.known = len(reader.frame.before) if found else 0

    def forward(self, ids: np.ndarray, mask: np.ndarray, in_document: np.ndarray) -> Tensor:
        import torch

        # The beginning that is in the cache is attended to, and counted.
        everything = np.pad(mask, ((0, 0), (self.known, 0)), constant_values=1)
        inputs = {"input_ids": ids, "attention_mask": everything}
        if self._positions:
            # The first token of a prompt is at 0, however much padding is in front of it.
            inputs["position_ids"] = np.maximum(np.cumsum(everything, axis=1) - 1, 0)[:, self.known :]
        with torch.inference_mode():
            output = self.model(
                **{name: self.send(each) for name, each in inputs.items()},
                past_key_values=self._cache,
                use_cache=self._cache is not None,
                **self._options,
            )
            logits: Tensor = output.logits[:, -1].float()
        # As of an encoder with one label.
        return logits * torch.tensor([-0.5, 0.5], device=logits.device) if self._one else logits


def _check_marks(tokenizer: Any, template: templates.Template) -> None:
    """Raise :class:`UserError` where the template writes special tokens (``<|name|>``) that the checkpoint does not know."""
    vocabulary = tokenizer.get_vocab()
    for mark in re.findall(r"<\|\w+\|>", template.before + template.between + template.after):
        if mark not in vocabulary:
            raise UserError(
                f"{tokenizer.name_or_path}: the vocabulary has no token {mark!r}, which the prompt writes; set "
                "scoring.prompt to a template made for this checkpoint",
                code="checkpoint-tokens",
            )


def _two_words(model: Any, labels: tuple[int, int]) -> None:
    """Reduce the output layer to two rows, in float32: bfloat16 would round logits to 3 digits.

    What a model does to its logits afterwards (scaling, soft caps) stays as it was.
    """
    import torch

    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise UserError(
            f"the output layer of this checkpoint is a {type(head).__name__}; a linear one is needed",
            code="checkpoint-kind",
        )
    rows = torch.nn.Linear(head.in_features, 2, bias=head.bias is not None, device=head.weight.device)
    with torch.no_grad():
        rows.weight.copy_(head.weight[list(labels)])
        if head.bias is not None:
            rows.bias.copy_(head.bias[list(labels)])
    rows.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    model.set_output_embeddings(rows.eval())
