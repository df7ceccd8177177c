"""Keys and values of the tokens that every prompt of a causal model begins with: computed once, used by all batches."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

#: Positions that depend on the length of the whole: keys of a beginning alone are not those in a long prompt.
_BY_LENGTH = ("dynamic", "longrope")


@dataclass(frozen=True)
class KnownBeginning:
    """``layers``: keys and values of the ``ids`` in each layer, (1, heads, ids, dimensions)."""

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]

    def to_read(self) -> Any:
        """Return a cache that gives each batch the beginning and its own keys and values, and keeps nothing of it."""
        import torch
        from transformers.cache_utils import DynamicCache, DynamicLayer

        class ReadOnly(DynamicLayer):  # type: ignore[misc]
            def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
                both = ((self.keys, key_states), (self.values, value_states))
                keys, values = (torch.cat([a.expand(len(b), -1, -1, -1), b], dim=-2) for a, b in both)
                return keys, values

        cache = DynamicCache()
        cache.layers = [ReadOnly() for _ in self.layers]
        for layer, (keys, values) in zip(cache.layers, self.layers, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        return cache

    def to_continue(self, rows: int, tokens: int) -> Any:
        """Return a cache of ``rows`` prompts that have got as far as the beginning, with room for so many ``tokens`` more.

        A cache that grows by one would copy all that it holds for each token that is written.
        """
        from transformers.cache_utils import DynamicCache, DynamicLayer

        class Roomy(DynamicLayer):  # type: ignore[misc]
            def fill(self, keys: Tensor, values: Tensor) -> None:
                self.lazy_initialization(keys, values)
                shape = (rows, keys.shape[1], keys.shape[2] + tokens)
                self._keys, self._values = (
                    keys.new_empty((*shape, keys.shape[3])),
                    values.new_empty((*shape, values.shape[3])),
                )
                self._take(0, keys, values)

            def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
                return self._take(self.keys.shape[-2], key_states, value_states)

            def _take(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
                end = start + keys.shape[-2]
                self._keys[:, :, start:end], self._values[:, :, start:end] = keys, values
                self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
                return self.keys, self.values

        cache = DynamicCache()
        cache.layers = [Roomy() for _ in self.layers]
        for layer, each in zip(cache.layers, self.layers, strict=True):
            layer.fill(*each)
        return cache


def compute(model: Any, ids: list[int]) -> KnownBeginning | None:
    """Return the keys and values of ``ids``; None where the model's layers keep other things, or where its positions depend
    on what follows."""
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if not ids or "position_ids" not in inspect.signature(model.forward).parameters:
        return None
    if _by_length(model.config) or _by_place(model.config):
        return None
    with torch.inference_mode():
        found = model(input_ids=torch.tensor([ids], device=model.device), use_cache=True).past_key_values
    if type(found) is not DynamicCache or any(type(layer) is not DynamicLayer for layer in found.layers):
        return None
    return KnownBeginning(ids, [(layer.keys, layer.values) for layer in found.layers])


def _by_length(config: Any) -> bool:
    """Return whether a kind of position in ``config`` depends on the length: one for all layers, or one for each type."""
    told = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [told, *(each for each in told.values() if isinstance(each, dict))]
    return any(each.get("rope_type") in _BY_LENGTH for each in kinds)


def _by_place(config: Any) -> bool:
    """Return whether layers see a window of places in the cache, as GPT-Neo's do: padding behind the beginning fills it."""
    return "local" in (getattr(config, "attention_layers", None) or ())
