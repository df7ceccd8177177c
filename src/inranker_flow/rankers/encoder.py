"""Encoder cross-encoders: query and document as a pair, and a classification head (arXiv 1901.04085)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers import labels
from inranker_flow.rankers.base import forward_passes
from inranker_flow.rankers.checkpoints import load_classifier, raw_config
from inranker_flow.rankers.devices import pick_device, pick_dtype
from inranker_flow.rankers.kinds import check_masks, reads_both_ways
from inranker_flow.rankers.pair_prompts import Frame, PairRanker, PairReader

if TYPE_CHECKING:
    from torch import Tensor

#: (ids, mask, token types or None) -> what the head says, (n, labels).
Forward = Callable[["Tensor", "Tensor", "Tensor | None"], "Tensor"]


class EncoderReader(PairReader):
    """The tokenizer's own pair.

    Inputs are those of ``tokenizer(query, document, truncation="only_second")``; where that would fail, because the
    query alone is too long, the query is cut.
    """

    def __init__(self, reference: str, tokenizer: Any, scoring: ScoringConfig) -> None:
        before, between, after, self.types = _marks(tokenizer)
        self.frame = Frame(before, between, after, scoring.max_length)
        super().__init__(reference, tokenizer, scoring)

    def encode_queries(self, queries: list[str]) -> list[list[int]]:
        return [[*ids, *self.frame.between] for ids in self.tokenise(queries)]

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        return self.tokenise(documents)


class EncoderRanker(PairRanker):
    """A BERT-like checkpoint with one label (a score), or labels of which one says relevant and one not (`labels.find`).

    A score s is the pair (-s/2, s/2): its margin is s and its mean 0, as the labels of a centred teacher are.
    """

    reader: EncoderReader

    def __init__(self, reference: str, scoring: ScoringConfig, revision: str = "") -> None:
        device = pick_device()
        model, tokenizer = load_classifier(reference, revision, pick_dtype(scoring.dtype, device))
        if not reads_both_ways(model.config):
            raise UserError(
                f"{reference}: a {type(model).__name__} is no encoder, so it reads no pair of query and document; "
                "give a BERT-like cross-encoder",
                code="checkpoint-kind",
            )
        check_masks(reference, model.config.model_type)
        self._forward = forward_of(model, scoring.forward == "fast")
        self.head = labels.find(reference, raw_config(reference, revision), scoring.false_token, scoring.true_token)
        _score_in_float32(model)
        super().__init__(reference, model, EncoderReader(reference, tokenizer, scoring), scoring, device)
        check_types(reference, model, self.reader.types)

    def forward(self, ids: np.ndarray, mask: np.ndarray, in_document: np.ndarray) -> Tensor:
        import torch

        with torch.inference_mode():
            inputs = map(self.send, (ids, mask, in_document))
            logits = outputs(self._forward, self.reader.types, *inputs)
            if self.head.false is None or self.head.true is None:
                return as_pair(logits[:, :1] if self.head.false is None else -logits[:, :1])
            return logits[:, [self.head.false, self.head.true]]


def check_types(reference: str, model: Any, types: tuple[int, int] | None) -> None:
    """Raise :class:`UserError` where the tokenizer's token types are more than the model has."""
    known = getattr(model.config, "type_vocab_size", None)
    if types and known and max(types) >= known:
        raise UserError(
            f"{reference}: its tokenizer gives token types up to {max(types)}, and the model knows {known}; take token_type_ids "
            "out of model_input_names in tokenizer_config.json",
            code="checkpoint-tokenizer",
        )


def forward_of(model: Any, fast: bool = True, recompute: bool = False) -> Forward:
    """Return the forward pass of ``model``: the one without what the head does not read, where it is known and ``fast``."""
    _, bert_forward = forward_passes()
    if fast and bert_forward.supported(model):
        found: Forward = bert_forward.BertForward(model, recompute)
        return found

    def plain(ids: Tensor, mask: Tensor, types: Tensor | None) -> Tensor:
        named = {} if types is None else {"token_type_ids": types}
        logits: Tensor = model(input_ids=ids, attention_mask=mask, **named).logits
        return logits

    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return plain


def outputs(forward: Forward, types: tuple[int, int] | None, ids: Tensor, mask: Tensor, in_document: Tensor) -> Tensor:
    """Return what the head says, float32 (n, labels), of padded inputs (see :class:`PairRanker`); ``types`` are the reader's."""
    kinds = in_document * (types[1] - types[0]) + types[0] if types else None
    return forward(ids, mask, kinds).float()


def as_pair(score: Tensor) -> Tensor:
    """Return scores s, (n, 1), as logits [false, true]: (-s/2, s/2)."""
    import torch

    return torch.cat([-score / 2, score / 2], dim=1)


def _marks(tokenizer: Any) -> tuple[list[int], list[int], list[int], tuple[int, int] | None]:
    """Return ids before the query, between and after, and the two token types (None where the model takes none).

    Read off a pair that the tokenizer has put together. Raises :class:`UserError` for one that does it in another way.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{tokenizer.name_or_path}: a tokenizer without tokenizer.json; save it as a fast tokenizer",
            code="checkpoint-tokenizer",
        )
    pair = tokenizer("a", "a")
    parts = {side: list(places) for side, places in _runs(pair.sequence_ids())}
    between = [pair["input_ids"][place] for place in parts.get("between", [])]
    if not between:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer puts no mark between the texts of a pair, so this checkpoint is no "
            "cross-encoder; give one that is",
            code="checkpoint-tokenizer",
        )
    before, after = ([pair["input_ids"][place] for place in parts.get(side, [])] for side in ("before", "after"))
    if "token_type_ids" not in tokenizer.model_input_names:
        return before, between, after, None
    types = [kind for kind, _ in groupby(pair["token_type_ids"])]
    start = parts["document"][0]
    if len(types) > 2 or len(set(pair["token_type_ids"][:start])) > 1 or len(set(pair["token_type_ids"][start:])) > 1:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer's token types {types} for a pair are not understood",
            code="checkpoint-tokenizer",
        )
    return before, between, after, (pair["token_type_ids"][0], pair["token_type_ids"][start])


def _runs(sides: list[int | None]) -> list[tuple[str, range]]:
    """Return the places of the parts of an encoded pair; ``sides``: 0 in the query, 1 in the document, None in marks."""
    query, document = sides.index(0), sides.index(1)
    after = len(sides) - sides[::-1].index(1)
    end = document - sides[:document][::-1].index(0)
    places = {"before": (0, query), "between": (end, document), "document": (document, after)}
    return [(name, range(*place)) for name, place in {**places, "after": (after, len(sides))}.items()]


def _score_in_float32(model: Any) -> None:
    """Compute the last layer of the head in float32: bfloat16 would round scores to 3 digits."""
    for _, layer in last_layers(model):
        layer.float().register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def last_layers(model: Any) -> list[tuple[str, Any]]:
    """Return names and modules of a head's linear layers that give its labels: normally one."""
    import torch

    inside = f"{model.base_model_prefix}."
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and layer.out_features == model.config.num_labels
        and not name.startswith(inside)
    ]
