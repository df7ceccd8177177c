"""The monoT5 family: the logits of "false" and "true" at the first decoder step (arXiv 2003.06713)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers.base import CutQueries, Ranker, forward_passes
from inranker_flow.rankers.batches import Batches
from inranker_flow.rankers.checkpoints import label_token_ids, load_seq2seq
from inranker_flow.rankers.devices import limit_threads, pick_device, pick_dtype
from inranker_flow.rankers.monot5_pairs import Plan
from inranker_flow.rankers.monot5_prompt import Renderer

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

#: (ids, mask or None where nothing is padded) -> logits [false, true], float32 (n, 2).
Forward = Callable[["Tensor", "Tensor | None"], "Tensor"]


class MonoT5Reader:
    """Tokenizer and template of a monoT5 (`rankers.base.Reader`)."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer, self.tokenizer = renderer, renderer.tokenizer
        self._cut = CutQueries()

    @classmethod
    def of(cls, tokenizer: Any, scoring: ScoringConfig) -> MonoT5Reader:
        """Return the reader that ``scoring`` asks for."""
        return cls(Renderer(tokenizer, scoring.max_length, scoring.truncation))

    @cached_property
    def identity(self) -> str:
        return json.dumps(self.renderer.identity)

    def prepare(
        self, queries: Iterable[str], documents: Iterable[str], pairs: np.ndarray, folder: Path | None = None
    ) -> Plan:
        """Tokenise each text once; ``pairs``: int (n, 2) of positions in ``queries`` and ``documents``."""
        plan = Plan.of(self.renderer, queries, documents, pairs, folder)
        self._cut.tell(plan.cut_queries)
        return plan

    def open(self, folder: Path) -> Plan:
        """Return prompts that were saved in ``folder``."""
        return Plan.open(self.renderer, folder)


class MonoT5Ranker(Ranker):
    """A T5 checkpoint that answers ``Query: ... Document: ... Relevant:`` with true or false."""

    def __init__(self, reference: str, scoring: ScoringConfig, revision: str = "") -> None:
        self.device = pick_device()
        model, self.tokenizer = load_seq2seq(reference, revision, dtype=pick_dtype(scoring.dtype, self.device))
        labels = label_token_ids(self.tokenizer, scoring.false_token, scoring.true_token)
        self.reader = MonoT5Reader.of(self.tokenizer, scoring)
        self.renderer = self.reader.renderer
        self.parameters = sum(weight.numel() for weight in model.parameters())
        limit_threads(model)
        dtype = model.dtype
        self._logits, kind = _forward(model.to(self.device), labels, scoring)
        self.batches = Batches.of(scoring, self.device, dtype)
        precision = "int8" if scoring.dtype == "int8" else str(dtype).removeprefix("torch.")
        log.info(
            "%s: %.1fM parameters on %s in %s, %s forward pass",
            reference, self.parameters / 1e6, self.device, precision, kind,
        )  # fmt: skip

    def forward(self, ids: np.ndarray, mask: np.ndarray) -> Tensor:
        """Return logits [false, true], float32 (n, 2), of padded prompts: ``ids`` and ``mask`` int64 (n, longest)."""
        import torch

        with torch.inference_mode():
            # The mask is left out only where nothing is padded: else the padding would be attended to.
            return self._logits(self.send(ids), None if mask.all() else self.send(mask))


def _forward(model: Any, labels: tuple[int, int], scoring: ScoringConfig) -> tuple[Forward, str]:
    """Return the forward pass that ``scoring`` asks for and what to call it; a model without closed form takes its own."""
    t5_forward, _ = forward_passes()
    int8 = scoring.dtype == "int8"
    reason = t5_forward.unsupported(model)
    if int8 and (reason or scoring.forward == "reference"):
        raise UserError(
            f"scoring.dtype: int8 is for the fast forward pass, which is not for {reason or 'forward: reference'}; set it to "
            "float32 or bfloat16",
            code="setting-conflict",
        )
    if scoring.forward == "fast":
        if not reason:
            on_cpu = model.device.type == "cpu"
            if scoring.compile and on_cpu:
                log.warning("scoring.compile is for GPUs: on a CPU oneDNN's products are as fast, without a wait")
            return t5_forward.T5Forward(model, labels).freeze(scoring.compile and not on_cpu, int8), "closed-form"
        log.warning("the fast forward pass is not for %s: taking the plain one of transformers", reason)
    return _plain(model, labels), "plain"


def _plain(model: Any, labels: tuple[int, int]) -> Forward:
    """Return the forward pass of ``transformers``, every part of it but the rows of the output layer that nobody reads."""
    import torch

    head = model.get_output_embeddings()
    chosen = list(labels)
    if isinstance(head, torch.nn.Linear) and head.bias is None and hasattr(model, "lm_head"):
        model.lm_head, chosen = _two_rows(head, labels), [0, 1]
    start = model.config.decoder_start_token_id
    start = model.config.pad_token_id if start is None else start

    def forward(ids: Tensor, mask: Tensor | None) -> Tensor:
        output = model(
            input_ids=ids,
            # Never left out: transformers would guess it.
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            decoder_input_ids=ids.new_full((len(ids), 1), start),
            use_cache=False,
        )
        logits: Tensor = output.logits[:, 0, chosen].float()
        return logits

    return forward


def _two_rows(head: Any, labels: tuple[int, int]) -> Any:
    """Return the output layer reduced to the two label tokens, computed in float32: bfloat16 would round logits to 3 digits.

    The model's own forward pass stays in front of it, so the scaling of tied checkpoints (T5 v1.0) is as it was.
    """
    import torch

    class TwoRows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # A plain tensor, not a parameter: it stays in float32.
            self.rows: Tensor = head.weight[list(labels)].detach().float().clone()

        def forward(self, hidden: Tensor) -> Tensor:
            return torch.nn.functional.linear(hidden.float(), self.rows)

    return TwoRows()
