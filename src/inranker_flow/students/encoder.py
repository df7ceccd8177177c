"""An encoder with a reranker's head: the cross-encoder that common servers take (arXiv 1901.04085).

Its one logit s is the pair (-s/2, s/2) of a monoT5, so every loss is as it is there; for a centred teacher with the score t
the paper's is (s - t)^2 / 4. The folder loads in sentence-transformers' ``CrossEncoder``, and text-embeddings-inference and
vLLM serve it: one label, whose logit is the score.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inranker_flow.config.sections import DistillConfig, ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers import labels
from inranker_flow.rankers.checkpoints import load_encoder, raw_config, set_dropout
from inranker_flow.rankers.encoder import (
    EncoderReader,
    Forward,
    as_pair,
    check_types,
    forward_of,
    last_layers,
    outputs,
)
from inranker_flow.rankers.pair_prompts import check_positions
from inranker_flow.reading import Trained
from inranker_flow.students import layers
from inranker_flow.students.base import Student

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

#: sentence-transformers' file in which text-embeddings-inference and vLLM find the longest input; without it they take as
#: many tokens as the model has positions.
LENGTHS = "sentence_bert_config.json"


class EncoderStudent(Student):
    """An encoder whose head has one label; a head of two becomes one, whose score is their difference."""

    reader: EncoderReader

    def __init__(self, reference: str, config: DistillConfig, revision: str = "") -> None:
        def change(found: Any) -> None:
            if config.dropout >= 0:
                set_dropout(found, config.dropout)

        model, self.tokenizer, new = load_encoder(reference, revision, config.seed, change)
        if new:
            log.info("%s: has no reranker's head, so one is made with seed %s", reference, config.seed)
        else:
            told = raw_config(reference, revision)
            head = labels.find_for_student("phase1", reference, told, config.false_token, config.true_token)
            log.info("%s: %s", reference, head.told)
            _one_label(reference, model, head)
        self.model = layers.kept(reference, model, config.layers)
        scoring = ScoringConfig(max_length=config.max_length, truncation=config.truncation)
        self.reader = EncoderReader(reference, self.tokenizer, scoring)
        check_positions(reference, self.model, config.max_length)
        check_types(reference, self.model, self.reader.types)
        self.reads = Trained(config.max_length, "document", "", "", "encoder")

    def scorer(self, checkpointing: bool) -> nn.Module:
        return _scorer(self.model, forward_of(self.model, recompute=checkpointing), self.reader.types)

    def save(self, folder: Path) -> None:
        config = self.model.config
        config.id2label, config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
        # The logit is the score: sentence-transformers' and vLLM's own default would be its sigmoid.
        config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.0.0"}
        _name_for_servers(config)
        # What its loaders cut at, and on which side: padding on the left would give the first token another place.
        self.tokenizer.model_max_length = self.reads.max_length
        self.tokenizer.padding_side = self.tokenizer.truncation_side = "right"
        if self.tokenizer.pad_token is None:
            # Loaders batch. Padding is masked, and a mark that is special already changes no text's tokens.
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(self.reader.frame.between[0])
        super().save(folder)
        # Where the servers look for the same. vLLM reads the file only with both keys; the tokenizer itself lowers cases.
        lengths = {"max_seq_length": self.reads.max_length, "do_lower_case": False}
        (folder / LENGTHS).write_text(json.dumps(lengths, indent=1) + "\n", encoding="utf-8")


def _name_for_servers(config: Any) -> None:
    """Write a ModernBERT's rotary bases and its layers' attention under the names of transformers 4 too, by which
    text-embeddings-inference reads them."""
    if config.model_type != "modernbert":
        return
    bases = {kind: each["rope_theta"] for kind, each in config.rope_parameters.items()}
    config.global_rope_theta, config.local_rope_theta = bases["full_attention"], bases["sliding_attention"]
    whole = [kind == "full_attention" for kind in config.layer_types]
    # Some layers of a checkpoint may be another rhythm than its own.
    every = next((each for each in range(1, len(whole) + 1) if whole == _rhythm(each, len(whole))), 0)
    if not every:
        log.warning(
            "the attention of the layers that are kept follows no rhythm: text-embeddings-inference cannot serve it"
        )
    config.global_attn_every_n_layers = every or config.global_attn_every_n_layers


def _rhythm(every: int, layers: int) -> list[bool]:
    return [place % every == 0 for place in range(layers)]


def _scorer(model: Any, forward: Forward, types: tuple[int, int] | None) -> nn.Module:
    import torch

    class EncoderLogits(torch.nn.Module):
        """(B, L) ids, mask and places of documents -> (B, 2) logits [false, true] in fp32."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor, mask: Tensor, in_document: Tensor) -> Tensor:
            return as_pair(outputs(forward, types, ids, mask, in_document))

    for _, layer in last_layers(model):
        layer.register_forward_hook(_in_float32)
    return EncoderLogits()


def _in_float32(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Compute a head's last layer in float32 under autocast: bfloat16 would round the score to 3 digits."""
    import torch

    if output.dtype == torch.float32:
        return output
    with torch.autocast(output.device.type, enabled=False):
        bias = None if layer.bias is None else layer.bias.float()
        return torch.nn.functional.linear(inputs[0].float(), layer.weight.float(), bias)


def _one_label(reference: str, model: Any, head: labels.Head) -> None:
    """Give the head one label, whose logit is the score that ``head`` says."""
    import torch

    if (head.false, head.true) == (None, 0):
        return
    found = last_layers(model)
    if len(found) != 1:
        raise UserError(
            f"{reference}: the head of a {type(model).__name__} has {len(found)} layers that give its labels, and one is known "
            "here; give another checkpoint",
            code="checkpoint-kind",
        )
    name, layer = found[0]
    with torch.no_grad():
        weight, bias = ((each * _signs(head, each)).sum(0, keepdim=True) for each in _numbers(layer))
        one = torch.nn.Linear(layer.in_features, 1)
        one.weight.copy_(weight)
        one.bias.copy_(bias.reshape(1))
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, one)
    model.config.num_labels = model.num_labels = 1


def _numbers(layer: Any) -> tuple[Tensor, Tensor]:
    import torch

    return layer.weight, torch.zeros(layer.out_features) if layer.bias is None else layer.bias


def _signs(head: labels.Head, like: Tensor) -> Tensor:
    """Return 1 at the label that says relevant, -1 at the one that says not, shaped to multiply ``like``."""
    import torch

    signs = torch.zeros(like.shape[0])
    for place, sign in ((head.true, 1.0), (head.false, -1.0)):
        if place is not None:
            signs[place] = sign
    return signs.reshape(-1, *[1] * (like.dim() - 1))
