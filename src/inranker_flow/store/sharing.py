"""Several pods at one piece of work: each has a share to begin with, and helps with the rest.

They meet in the store alone (``INRANKER_STORE``): what one has put there no other does again. So a pod that is lost costs what
it had in hand, whoever is left does the rest, and the pod that writes the artifact needs to wait for nobody.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.storage import uris

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

#: How many pods are at the work of this one; set where the pipeline was compiled with `cluster.workers`.
VARIABLE = "INRANKER_WORKERS"
#: What the other pods do -> the stage whose work it is.
HELPS = {"help_label": "teacher_label", "help_generate": "generate_queries"}


@dataclass(frozen=True)
class Share:
    """Pod ``number`` (from 0: the one that writes the artifact) of ``count`` at the same work."""

    number: int = 0
    count: int = 1

    @property
    def shared(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def in_turn(self, shards: Sequence[tuple[int, T]]) -> Iterator[tuple[int, T]]:
        """Yield numbered ``shards``: this pod's in their order, then the others' at random, so that helpers seldom meet."""
        own = [each for each in shards if each[0] % self.count == self.number]
        others = [each for each in shards if each[0] % self.count != self.number]
        yield from own
        yield from random.sample(others, len(others))


def of_this_pod(number: int = 0) -> Share:
    """Return the share of pod ``number``. Raises :class:`UserError` where there are others and no store to share."""
    count = variables.workers()
    if not count.isascii() or not count.isdigit() or int(count) <= number:
        raise UserError(
            f"{variables.WORKERS}: {count!r} is no number of pods above {number}; compile the pipeline anew",
            code="workers-mismatch",
        )
    if int(count) > 1 and not variables.store_root():
        raise UserError(
            f"cluster.workers: {count} pods share their work through INRANKER_STORE, which is off; set it to an s3:// prefix, "
            "or cluster.workers to 1",
            code="store-off",
        )
    return Share(number, int(count))


def plan(store: str, keys: np.ndarray) -> str:
    """Return the address of the agreement of pods about ``keys``, uint64 (rows, 2), of ``store``."""
    folder, _, name = store.rpartition("/")
    return f"{folder}/plans/{sha256(f'{name}/'.encode() + keys.tobytes()).hexdigest()}"


def agreed(missing: np.ndarray, uri: str) -> np.ndarray:
    """Return the mask of keys that were ``missing`` when the first pod began, which leaves it at ``uri``. Keys that are
    missing now are among them.

    So all pods cut the same shards, however late they begin.
    """
    import numpy as np

    try:
        uris.put_if_absent(np.packbits(missing).tobytes(), uri)
        first = np.unpackbits(np.frombuffer(uris.read(uri), np.uint8), count=len(missing)).astype(bool)
    except FileNotFoundError:  # the work was completed, and this removed, just now
        return missing
    return first | missing
