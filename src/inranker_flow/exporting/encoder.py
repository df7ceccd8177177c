"""The graph of an encoder with a classification head: inputs and outputs are those that transformers and optimum name."""

from __future__ import annotations

from typing import Any

import numpy as np

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.exporting.graph import Graph, named
from inranker_flow.rankers import labels
from inranker_flow.rankers.checkpoints import load_tokenizer, raw_config
from inranker_flow.rankers.encoder import EncoderRanker, EncoderReader


class EncoderGraph(Graph):
    """Answers with the values of all labels, (n, labels)."""

    reader: EncoderReader

    def __init__(self, reference: str, scoring: ScoringConfig) -> None:
        self._reference, self._scoring = reference, scoring
        self.reader = EncoderReader(reference, load_tokenizer(reference), scoring)
        self._head = labels.find(reference, raw_config(reference), scoring.false_token, scoring.true_token)
        types = ("token_type_ids",) if self.reader.types else ()
        self.inputs = ("input_ids", "attention_mask", *types)

    def feeds(self, *prompts: np.ndarray) -> tuple[np.ndarray, ...]:
        ids, mask, in_document = prompts
        types = self.reader.types
        return (ids, mask, in_document * (types[1] - types[0]) + types[0]) if types else (ids, mask)

    def logits(self, found: np.ndarray) -> np.ndarray:
        false, true = self._head.false, self._head.true
        if false is None or true is None:
            score = found[:, 0] if false is None else -found[:, 0]
            return np.stack([-score / 2, score / 2], axis=1)
        return found[:, [false, true]]

    def module(self) -> Any:
        model = EncoderRanker(self._reference, self._scoring).model.cpu()
        model.config.return_dict = True
        # PyTorch's own attention is traced with a guard against rows without a token, which no prompt has: 6% of the time.
        model.set_attn_implementation("eager")
        return named(model, self.inputs)
