"""The logits of some pairs: found in a store, or to be put there shard by shard."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from inranker_flow.storage import uris
from inranker_flow.store import kept_rows, sharing
from inranker_flow.store.kept_rows import ContentStore, distinct
from inranker_flow.store.sharing import Share

LOGITS = ("false_logit", "true_logit")
SCHEMA = pa.schema([pa.field(name, pa.float64(), nullable=False) for name in LOGITS])


def pair_keys(index: np.ndarray, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return the key of each pair: a digest of its two texts, whatever their ids are; uint64 (pairs, 2).

    ``index``, int (pairs, 2): the places of both texts in ``queries`` and ``documents``, the row hashes of texts.
    """
    return kept_rows.combine(queries[index[:, 0]], documents[index[:, 1]])


class Logits:
    """The logits of some pairs: found in ``store``, or to be put there. Pairs with the same two texts are one *task*.

    ``keys``: uint64 (pairs, 2), digest of query and passage as the model reads them.
    """

    def __init__(self, store: ContentStore, keys: np.ndarray) -> None:
        self.store = store
        #: A pair of each task, and the task of each pair.
        self.pair, self._task = distinct(keys)
        self._keys = keys[self.pair]
        #: Where pods that share this work keep what they have agreed on.
        self._plan = sharing.plan(store.uri, self._keys)
        self._logits = np.empty((len(self.pair), 2))
        self._known = np.zeros(len(self.pair), bool)
        self._company = False
        self._fill(only_new=False)

    @property
    def missing(self) -> np.ndarray:
        """Tasks without logits."""
        return np.flatnonzero(~self._known)

    @property
    def known_pairs(self) -> int:
        return int(self._known[self._task].sum())

    @property
    def values(self) -> np.ndarray:
        """Of all pairs, float64 (pairs, 2), once nothing is missing."""
        assert self._known.all()
        return self._logits[self._task]

    def to_score(self, share: Share) -> np.ndarray:
        """Return tasks that shards are cut from: those without logits, or, where pods share them, those of the first pod's
        plan.

        A shard is then the same whoever scores it, and its logits have the same bits.
        """
        missing = self.missing
        if not (share.shared and missing.size):
            return missing
        return np.flatnonzero(sharing.agreed(~self._known, self._plan))

    def forget(self, share: Share) -> None:
        """All is scored: nobody needs the plan any more."""
        if share.shared:
            uris.delete(self._plan)

    def shards(
        self, order: np.ndarray, size: int, share: Share, done: Callable[[slice], None]
    ) -> Iterator[tuple[int, slice]]:
        """Yield the tasks ``order`` in shards of ``size``, as (number, place in ``order``), one by one as they are asked for.

        This pod's ``share`` comes first, the rest in random order. A shard that another process has scored meanwhile is left
        out, and ``done`` is told. Where no share was given out, another one at the same work shows by what it puts there: from
        then on shards are taken in random order, so that the two share the rest between them.
        """
        cut = [(n, slice(at, min(at + size, len(order)))) for n, at in enumerate(range(0, len(order), size))]
        waiting = list(share.in_turn(cut))
        while waiting:
            number, place = waiting.pop(random.randrange(len(waiting)) if self._company and not share.shared else 0)
            self._fill(only_new=True)
            if self._known[order[place]].all():
                done(place)
            else:
                yield number, place

    def keep(self, tasks: np.ndarray, logits: np.ndarray) -> None:
        """Take scored ``tasks`` in; they are safe in the store when this returns."""
        new = ~self._known[tasks]
        tasks, logits = tasks[new], logits[new]  # what another process was first with stays as it is everywhere
        values = {name: logits[:, column] for column, name in enumerate(LOGITS)}
        self.store.put(self._keys[tasks], pa.table(values, schema=SCHEMA))
        self._logits[tasks], self._known[tasks] = logits, True

    def _fill(self, only_new: bool) -> None:
        """Look for everything that is missing, not a shard's alone: a file is looked at once."""
        missing = self.missing
        found, values = self.store.find(self._keys[missing], only_new)
        tasks = missing[found]
        self._logits[tasks], self._known[tasks] = kept_rows.numbers(values), True
        self._company |= only_new and bool(tasks.size)
