"""LoRA (arXiv 2106.09685) by `peft`: small matrices beside the linear layers are trained, and merged into them at the end."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

from inranker_flow.config.sections import DistillConfig
from inranker_flow.config.values import Kind
from inranker_flow.errors import UserError


def check(reference: str, kind: Kind, config: DistillConfig, key: str = "lora_rank") -> None:
    """Raise :class:`UserError` where ``config`` asks for adapters that this student cannot have.

    ``key``: what the setting is called where it was made. Where torch is not installed, nothing is trained: `peft` is then
    looked for by the stage that trains.
    """
    if not config.lora_rank:
        return
    if kind != "causal":
        # A T5 is trained in a closed form that reads its weights themselves; encoders are small.
        raise UserError(
            f"{reference}: {key} {config.lora_rank} is for causal students, and this is one of the kind {kind}; set it to 0",
            code="setting-conflict",
        )
    if find_spec("peft") is None and find_spec("torch") is not None:
        raise UserError(
            f"{key}: {config.lora_rank} needs peft, which is not installed here; pip install 'inranker-flow[train]', or set it "
            "to 0",
            code="package-missing",
        )


def add(model: Any, config: DistillConfig) -> Any:
    """Put adapters beside every linear layer of ``model`` but the output layer, and freeze everything else.

    Return what :func:`merged` takes. The new matrices follow from the seed alone; the model computes what it did before.
    """
    import torch
    from peft import LoraConfig, LoraModel

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha or 2 * config.lora_rank,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(config.seed)
        # GPT-2's layers keep their weights transposed, which peft sees by itself.
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        try:
            return LoraModel(model, lora, "default")
        except ValueError as error:  # Mamba's kernels read weights themselves
            reason = " ".join(str(error).split()).partition(". ")[0][:200]
            raise UserError(
                f"lora_rank: {config.lora_rank}, but peft adds nothing to a {type(model).__name__} ({reason}); set it to 0",
                code="setting-conflict",
            ) from error


def merged(adapted: Any) -> Any:
    """Return the model with its adapters added to its weights: what it was before, with other numbers in it."""
    return adapted.merge_and_unload()
