"""A shallower student out of a deeper checkpoint: some of its layers, as they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from inranker_flow.errors import UserError

log = logging.getLogger(__name__)

#: Settings that count the layers of a stack, and those that hold one value for each layer.
_COUNTS = ("num_hidden_layers", "num_layers", "num_decoder_layers")
_LISTS = ("layer_types",)


def kept(reference: str, model: Any, asked: Sequence[int]) -> Any:
    """Return ``model`` with the layers that ``asked`` names, from 0, or (one number) with so many of them; () keeps all.

    A number takes layers at equal distances, the first and the last among them (as DistilBERT and MiniLM students begin:
    arXiv 1910.01108, section 3). An encoder-decoder keeps the same of both stacks, as far as its decoder has them.
    Raises :class:`UserError` where the checkpoint has no such layer.
    """
    import torch

    if not asked:
        return model
    count = total(model.config)
    chosen = spread(asked[0], count) if len(asked) == 1 and asked[0] else tuple(asked)
    # The first holds what the others do without: T5's position bias, ModernBERT's missing norm.
    if max(chosen) >= count or chosen[0] != 0 or list(chosen) != sorted(set(chosen)):
        raise UserError(
            f"layers: {', '.join(map(str, asked))}, but {reference} has layers 0 to {count - 1}; give "
            f"a number up to {count}, or some of them in their order, 0 among them",
            code="setting-value",
        )
    stacks = 0
    for module in model.modules():
        for name, stack in list(module.named_children()):
            if not (isinstance(stack, torch.nn.ModuleList) and len(stack) == count):
                continue
            setattr(module, name, torch.nn.ModuleList([_numbered(stack[each], at) for at, each in enumerate(chosen)]))
            stacks += 1
    if not stacks:
        raise UserError(
            f"layers: a {type(model).__name__} has no stack of layers that is known here; leave it empty",
            code="setting-conflict",
        )
    for each in {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}.values():
        _shorten(each, count, chosen)
    log.info("%s: layers %s of %s are kept", reference, ", ".join(map(str, chosen)), count)
    return model


def total(config: Any) -> int:
    """Return the layers of a model's encoder, or of its only stack."""
    return max(int(getattr(config, name, None) or 0) for name in ("num_hidden_layers", "num_layers"))


def spread(count: int, total: int) -> tuple[int, ...]:
    """Return ``count`` of the layers 0 to ``total`` - 1 at equal distances, the first and the last among them."""
    if count > total:
        return (total,)  # one that is not there
    if count == 1:
        return (0,)
    return tuple(round(place * (total - 1) / (count - 1)) for place in range(count))


def _numbered(layer: Any, place: int) -> Any:
    """Give a layer its new number: caches of keys and values go by it."""
    for part in layer.modules():
        for name in ("layer_idx", "layer_id"):
            if isinstance(getattr(part, name, None), int):
                setattr(part, name, place)
    return layer


def _shorten(config: Any, total: int, chosen: Sequence[int]) -> None:
    for name in _COUNTS:
        if getattr(config, name, None) == total:
            setattr(config, name, len(chosen))
    for name in _LISTS:
        values = getattr(config, name, None)
        if isinstance(values, list) and len(values) == total:
            setattr(config, name, [values[each] for each in chosen])
