"""A monoT5 in training: token ids -> the two logits that are the score."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from inranker_flow.rankers.t5_forward import T5Forward, unsupported

log = logging.getLogger(__name__)


class LabelLogits(nn.Module):
    """(B, L) ids and mask -> (B, 2) logits [false, true] at the first decoder step, in fp32.

    In closed form (`rankers.t5_forward`) where the model is of a kind for which that is exact; else by its own forward.
    ``checkpointing``: keep less for the backward pass and compute it again.
    """

    labels: Tensor

    def __init__(self, model: Any, labels: tuple[int, int], checkpointing: bool = False) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("labels", torch.tensor(labels), persistent=False)
        reason = unsupported(model)
        self.closed_form = None if reason else T5Forward(model, labels)
        if self.closed_form:
            self.closed_form.recompute = checkpointing
        else:
            log.info("the closed-form forward does not know %s: training by the model's own, which is slower", reason)
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if self.closed_form:
            return self.closed_form(input_ids, attention_mask)
        logits: Tensor = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=input_ids.new_full((len(input_ids), 1), self.model.config.decoder_start_token_id),
            use_cache=False,
        ).logits[:, 0, self.labels]
        return logits.float()
