"""What the optimiser moves, and how far: AdamW as the Hugging Face Trainer sets it up, with a rate for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inranker_flow.config.sections import DistillConfig
from inranker_flow.students.base import depth, is_embedding

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import AdamW

#: Of a group of weights: its part of the learning rate.
_SHARE = "share"


def trained(model: Any, freeze_embeddings: bool) -> dict[str, Tensor]:
    """Return the weights of ``model`` that are trained, by name; the others ask for no gradient from here on."""
    for name, weight in model.named_parameters():
        if freeze_embeddings and is_embedding(name):
            weight.requires_grad_(False)
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def adamw(weights: Mapping[str, Tensor], config: DistillConfig, layers: int, device: Any) -> AdamW:
    """Return the optimiser. Vectors (norms, biases) do not decay, as in the Hugging Face Trainer.

    `layer_decay` d gives a weight d^(layers + 1 - depth) of the learning rate: the head has all of it, each layer below it
    less (discriminative fine-tuning, arXiv 1801.06146; ELECTRA's d is 0.8 to 0.9, arXiv 2003.10555, table 6).
    """
    import torch

    groups: dict[tuple[int, bool], list[Tensor]] = {}
    for name, weight in weights.items():
        place = depth(name, layers) if config.layer_decay < 1 else layers + 1
        groups.setdefault((place, weight.dim() > 1), []).append(weight)
    # Matrices before vectors: checkpoints hold the state of the weights in this order.
    ordered = sorted(groups.items(), key=lambda each: (each[0][0], not each[0][1]))
    return torch.optim.AdamW(
        [
            {
                "params": some,
                "weight_decay": config.weight_decay if matrices else 0.0,
                _SHARE: config.layer_decay ** (layers + 1 - place),
            }
            for (place, matrices), some in ordered
        ],
        lr=0.0,
        betas=(0.9, config.adam_beta2),
        eps=1e-8,
        fused=device.type in ("cpu", "cuda"),
    )


def set_rate(optimizer: AdamW, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[_SHARE]
