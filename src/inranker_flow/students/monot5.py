"""A T5 that answers ``Query: ... Document: ... Relevant:`` with ▁true or ▁false: the paper's student (arXiv 2401.06910)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inranker_flow.config.sections import DistillConfig
from inranker_flow.rankers.checkpoints import label_token_ids, load_seq2seq
from inranker_flow.rankers.monot5 import MonoT5Reader
from inranker_flow.rankers.monot5_prompt import Renderer
from inranker_flow.reading import Trained
from inranker_flow.students import layers
from inranker_flow.students.base import Student

if TYPE_CHECKING:
    from inranker_flow.students.label_logits import LabelLogits

ANSWERS = ("▁false", "▁true")
#: Weights that have no part in the score of a single decoder step, whose gradient is exactly zero.
_UNUSED = re.compile(r"decoder\.block\.\d+\.layer\.0\.SelfAttention\.(q|k|relative_attention_bias)\.weight")


class MonoT5Student(Student):
    """A T5 and its two label words."""

    def __init__(self, reference: str, config: DistillConfig, revision: str = "") -> None:
        dropout = config.dropout if config.dropout >= 0 else None
        model, tokenizer = load_seq2seq(reference, revision, dropout=dropout)
        self.model, self.tokenizer = layers.kept(reference, model, config.layers), tokenizer
        false, true = config.false_token or ANSWERS[0], config.true_token or ANSWERS[1]
        self.labels = label_token_ids(tokenizer, false, true)
        self.reader = MonoT5Reader(Renderer(tokenizer, config.max_length, config.truncation, config.append_eos))
        self.reads = Trained(config.max_length, config.truncation, true, false)
        self._scorer: LabelLogits | None = None

    def scorer(self, checkpointing: bool) -> LabelLogits:
        from inranker_flow.students.label_logits import LabelLogits

        self._scorer = LabelLogits(self.model, self.labels, checkpointing)
        return self._scorer

    @property
    def width(self) -> int:
        return int(self.model.config.d_model)

    def has_gradient(self, name: str) -> bool:
        closed = self._scorer is not None and self._scorer.closed_form is not None
        return not (closed and _UNUSED.fullmatch(name))

    def save(self, folder: Path) -> None:
        # transformers 5 says "tied" for T5 v1.1 too, whose output matrix is its own; other versions would tie it on loading.
        model: Any = self.model
        model.config.tie_word_embeddings = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        # Loaders cut the end of a prompt, never its beginning.
        self.tokenizer.padding_side = self.tokenizer.truncation_side = "right"
        super().save(folder)
