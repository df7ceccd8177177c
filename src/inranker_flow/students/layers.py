"""A shallower student out of a deeper checkpoint: some of its layers, as they are."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.students.base import is_in_layer

log = logging.getLogger(__name__)

#: Settings that count the layers of a stack, and those that hold one value for each layer.
_COUNTS = ("num_hidden_layers", "num_layers", "num_decoder_layers")
_LISTS = ("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "attention_window")
#: The same number as config.json has it, by transformers' many names.
_WRITTEN = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
#: Model types of which no layers can be taken: all are one, or what belongs to one lies in several lists.
_WHOLE = ("albert", "flaubert", "funnel", "gpt_neo", "xlm")
#: Attributes of a layer's parts that change no number of a score.
_PASSING = ("training", "seed")


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
    chosen = _chosen(reference, asked, count)
    stacks = 0
    for module in model.modules():
        for name, stack in list(module.named_children()):
            if not (isinstance(stack, torch.nn.ModuleList) and len(stack) == count):
                continue
            setattr(module, name, torch.nn.ModuleList([_numbered(stack[each], at) for at, each in enumerate(chosen)]))
            stacks += 1
    if not stacks or model.config.model_type in _WHOLE:
        raise _inseparable(type(model).__name__)
    for each in {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}.values():
        _shorten(each, count, chosen)
    _check_rebuilt(model)
    log.info("%s: layers %s of %s are kept", reference, ", ".join(map(str, chosen)), count)
    return model


def check(reference: str, config: Mapping[str, Any], asked: Sequence[int], key: str = "layers") -> None:
    """Raise :class:`UserError` where :func:`kept` would, as far as a ``config.json`` says it. ``key`` names the setting."""
    if not asked:
        return
    if (model_type := config.get("model_type")) in _WHOLE:
        raise _inseparable(str(model_type), key)
    counts = [found for name in _WRITTEN if isinstance(found := config.get(name), int) and found > 0]
    if counts:
        _chosen(reference, asked, max(counts), key)


def _inseparable(name: str, key: str = "layers") -> UserError:
    return UserError(
        f"{key}: a {name} has no stack of layers of which some can be taken; leave it empty", code="setting-conflict"
    )


def _chosen(reference: str, asked: Sequence[int], count: int, key: str = "layers") -> tuple[int, ...]:
    """Return the numbers of the layers that ``asked`` means of ``count``; :class:`UserError` where there are none such."""
    chosen = spread(asked[0], count) if len(asked) == 1 and asked[0] else tuple(asked)
    # The first holds what the others do without: T5's position bias, ModernBERT's missing norm.
    if max(chosen) >= count or chosen[0] != 0 or list(chosen) != sorted(set(chosen)):
        raise UserError(
            f"{key}: {', '.join(map(str, asked))}, but {reference} has layers 0 to {count - 1}; give "
            f"a number up to {count}, or some of them in their order, 0 among them",
            code="setting-value",
        )
    return chosen


def _check_rebuilt(model: Any) -> None:
    """Raise :class:`UserError` where a model made of the shortened configuration is not this one.

    A layer may be made otherwise by its number, in ways that are not known here: what is trained would not be what is loaded.
    """
    import torch

    try:
        with torch.device("meta"):
            anew = type(model)(copy.deepcopy(model.config))
        same = dict(_facts(anew)) == dict(_facts(model))
    except Exception as error:  # a configuration's own checks raise what they like
        raise _inseparable(type(model).__name__) from error
    if not same:
        raise _inseparable(type(model).__name__)


def _facts(model: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield the shapes of weights, and the plain attributes of layers and their parts."""
    for name, weight in model.named_parameters():
        yield (name, "shape"), tuple(weight.shape)
    for name, part in model.named_modules():
        for key, value in vars(part).items() if is_in_layer(f"{name}.") else ():
            if isinstance(value, bool | int | float | str) and not key.startswith("_") and key not in _PASSING:
                yield (name, key), value


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
