"""What computes the scores: one backend for each form in which a student is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from inranker_flow.errors import UserError
from inranker_flow.reranker import Passage, Reranker

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


def _torch(reference: str, batch_tokens: int) -> Backend:
    return Reranker(reference, batch_tokens=batch_tokens)


#: Name of a backend -> its loader. A further form of a student is a row here.
LOADERS: dict[str, Loader] = {"torch": _torch}
DEFAULT = "torch"


def loader(name: str) -> Loader:
    """Return the loader of the backend ``name``; :class:`UserError` where there is none."""
    if name not in LOADERS:
        raise UserError(f"BACKEND: {name!r} is unknown; there is: {', '.join(LOADERS)}", code="setting-value")
    return LOADERS[name]
