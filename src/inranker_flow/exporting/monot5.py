"""The graph of a monoT5: one decoder step in closed form (`rankers.t5_forward`), so an encoder and a few products."""

from __future__ import annotations

from typing import Any

import numpy as np

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.exporting.graph import Graph
from inranker_flow.rankers.base import forward_passes
from inranker_flow.rankers.checkpoints import label_token_ids, load_seq2seq, load_tokenizer
from inranker_flow.rankers.monot5 import MonoT5Reader


class MonoT5Graph(Graph):
    """Answers with the logits of false and true, (n, 2)."""

    inputs = ("input_ids", "attention_mask")
    reader: MonoT5Reader

    def __init__(self, reference: str, scoring: ScoringConfig) -> None:
        self._reference, self._scoring = reference, scoring
        self.reader = MonoT5Reader.of(load_tokenizer(reference), scoring)

    def feeds(self, *prompts: np.ndarray) -> tuple[np.ndarray, ...]:
        return prompts

    def logits(self, found: np.ndarray) -> np.ndarray:
        return found

    def module(self) -> Any:
        import torch

        model, tokenizer = load_seq2seq(self._reference)
        answers = label_token_ids(tokenizer, self._scoring.false_token, self._scoring.true_token)
        t5_forward, _ = forward_passes()
        step = t5_forward.T5Forward(model, answers).freeze_to_trace()

        class OneStep(torch.nn.Module):
            def forward(self, ids: Any, mask: Any) -> Any:
                return step(ids, mask)

        return OneStep().eval()
