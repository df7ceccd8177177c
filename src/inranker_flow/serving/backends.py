"""What computes the scores: one backend for each form in which a student is stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import numpy as np

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.config.values import VariantName
from inranker_flow.errors import UserError
from inranker_flow.exporting import record
from inranker_flow.exporting.backends import load_exported
from inranker_flow.exporting.variants import VARIANTS
from inranker_flow.model_registry import registry
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.reading import WHOLE, scoring_of
from inranker_flow.reranker import Passage, Reranker

log = logging.getLogger(__name__)

Pair = tuple[str, Passage]


class Backend(Protocol):
    """A loaded model. One thread at a time asks it for scores."""

    #: What it computes in: float32, bfloat16, int8.
    dtype: str

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one of its batches."""
        ...

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Return the score of each (query, passage), true_logit - false_logit, float64 (n,), in the order of ``pairs``."""
        ...


#: (reference, batch_tokens or 0) -> a loaded backend.
Loader = Callable[[str, int], Backend]


#: What `torch` can be told to compute in; "": what the version was measured in.
Dtype = Literal["", "float32", "bfloat16", "int8"]


def _torch(reference: str, batch_tokens: int, dtype: Dtype = "") -> Backend:
    return Reranker(reference, batch_tokens=batch_tokens, dtype=dtype)


def _variant(name: VariantName) -> Loader:
    """Return the loader of an exported form of a student, which lies beside its weights."""

    def load(reference: str, batch_tokens: int) -> Backend:
        folder = locate(reference)
        if folder is None:
            raise UserError(
                f"BACKEND: {name}: {reference} is not a folder or a registered version, so no exported form lies beside it; "
                f"serve it with {DEFAULT}",
                code="setting-conflict",
            )
        scoring = scoring_of(folder, ScoringConfig(batch_tokens=batch_tokens))
        passages = registry.served(reference).passages if reference.startswith("models:/") else WHOLE
        dtype = "int8" if "int8" in name else "float32"
        return Reranker.of(load_exported(folder, name, scoring), passages, dtype)

    return load


def _best(reference: str, batch_tokens: int) -> Backend:
    """Load the form that was the fastest where it was exported (the median of a request, all CPUs); torch where none was."""
    found = record.read(locate(reference))
    measured = {DEFAULT: found.get("checkpoint", {}), **found.get("variants", {})}
    medians = {name: median for name, each in measured.items() if (median := _median(each)) and _runs(name)}
    name = min(medians, key=medians.__getitem__, default=DEFAULT)
    log.info("%s: served by %s%s", reference, name, f" ({medians[name]:.1f} ms when exported)" if medians else "")
    return LOADERS[name](reference, batch_tokens)


def _median(measured: Mapping[str, Any]) -> float | None:
    return ((measured.get("latency") or {}).get("all") or {}).get("p50_ms")


def _runs(name: str) -> bool:
    """Return whether the runtime of a form is installed here."""
    return name == DEFAULT or find_spec(VARIANTS[name].runtime) is not None  # type: ignore[index]


DEFAULT, BEST = "torch", "best"
#: Name of a backend -> its loader. A further form of a student is a row of `exporting.variants`.
LOADERS: dict[str, Loader] = {DEFAULT: _torch, **{name: _variant(name) for name in VARIANTS}, BEST: _best}


def loader(name: str, dtype: Dtype = "") -> Loader:
    """Return the loader of the backend ``name``, which computes in ``dtype``; :class:`UserError` where there is none."""
    if name not in LOADERS:
        raise UserError(f"BACKEND: {name!r} is unknown; there is: {', '.join(LOADERS)}", code="setting-value")
    if dtype and name != DEFAULT:
        raise UserError(
            f"DTYPE: {name} computes in what it was exported in; leave one of DTYPE and BACKEND out",
            code="setting-conflict",
        )
    return partial(_torch, dtype=dtype) if dtype else LOADERS[name]
