"""What the names of a checkpoint's tensors say beside its config.json, before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from inranker_flow.errors import UserError

#: A stack of layers at the beginning of a tensor's name, and the number of one.
_STACK = re.compile(r"((?:.*?\.)??(?:layers?|blocks?|h)\.)(\d+)\.")
#: What config.json calls the number of layers, of an encoder (or of the only stack) and of a decoder.
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_HEAD = re.compile(r"(?:^|\.)(?:classifier|classification_head|score|sequence_summary|logits_proj|decoder)\.")


def stacks(names: Iterable[str]) -> dict[str, int]:
    """Return the number of layers of each stack: ``encoder.layer.`` -> 12."""
    found: dict[str, int] = {}
    for name in names:
        if match := _STACK.match(name):
            found[match[1]] = max(found.get(match[1], 0), int(match[2]) + 1)
    return found


def check_layers(reference: str, config: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise :class:`UserError` where ``config`` counts other layers than the checkpoint's only stack has.

    transformers would leave the others out without a word. Nothing is said of several stacks, or where config.json says
    nothing.
    """
    said = [found for name in _LAYERS if isinstance(found := config.get(name), int) and not isinstance(found, bool)]
    # Layers that predict further tokens follow the others, and are none of them.
    stacked = stacks(names)
    if len(set(said)) != 1 or config.get("num_nextn_predict_layers") or len(stacked) != 1:
        return
    [(stack, count)] = stacked.items()
    if count != said[0]:
        raise other_layers(reference, said[0], stack, count)


def other_layers(reference: str, said: int, stack: str, count: int) -> UserError:
    """Return the line about a config.json of another number of layers than the weights'."""
    return UserError(
        f"{reference}: config.json says {said} layers, and the weights have {count} ({stack}*); fetch the checkpoint again, or "
        "correct config.json (phase1.layers takes some layers of a deeper checkpoint)",
        code="checkpoint-config",
    )


def check_loaded(reference: str, model: Any, unexpected: Iterable[str]) -> None:
    """Raise :class:`UserError` where some of the weights that found no place in ``model`` are layers beyond its own."""
    inside = f"{model.base_model_prefix}."
    own = stacks(name.removeprefix(inside) for name, _ in model.named_parameters())
    for stack, count in stacks(name.removeprefix(inside) for name in unexpected).items():
        if count > own.get(stack, count):
            raise other_layers(reference, own[stack], stack, count)


def has_head(names: Iterable[str]) -> bool:
    """Return whether one of the tensors is a head's."""
    return any(map(_HEAD.search, names))


def check_head(reference: str, config: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise :class:`UserError` where config.json says a head and there are weights, but none of a head."""
    architecture = (config.get("architectures") or [""])[0]
    if architecture.endswith("ForSequenceClassification") and stacks(names) and not has_head(names):
        raise UserError(
            f"{reference}: config.json says a {architecture}, and the weights hold no head of one; give the whole checkpoint, or "
            "(for a student) take architectures out of config.json, so that a head is made",
            code="checkpoint-incomplete",
        )
