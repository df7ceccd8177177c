"""What is to be scored, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.rankers.texts import Selected
from inranker_flow.scoring.logits import Logits
from inranker_flow.store.sharing import Share

_PLAIN, _ALONE = ScoringConfig(), Share()


@dataclass(frozen=True)
class Checkpoint:
    """A model: where it is (see `rankers.checkpoints`), and how it reads and computes."""

    reference: str
    revision: str = ""
    scoring: ScoringConfig = _PLAIN


class Source(Protocol):
    """The texts of pairs."""

    def select(self, rows: np.ndarray) -> Selected:
        """Return the texts of the pairs ``rows``, each once, and their places in these."""
        ...


@dataclass(frozen=True)
class Processes:
    """``count`` processes that share the pairs (0: one for each GPU, or one); ``setting`` is what it is called."""

    count: int
    setting: str


@dataclass(frozen=True, kw_only=True)
class ShardedJob:
    """Complete ``known``, the logits of the pairs of ``source``, in shards of ``shard_pairs``."""

    #: For the log.
    what: str
    source: Source
    known: Logits
    shard_pairs: int
    #: Is told the pairs of a shard and their logits before they are kept; raises where they are none.
    check: Callable[[np.ndarray, np.ndarray], None]
    share: Share = _ALONE


@dataclass(frozen=True, kw_only=True)
class ScoringJob(ShardedJob):
    """The same with the model ``checkpoint``, which processes here load."""

    checkpoint: Checkpoint
    processes: Processes
    #: For files that processes share.
    folder: Path


@dataclass(frozen=True)
class Work:
    """What it cost to score ``pairs`` here, in ``processes``: without loading the model and tokenising.

    Of a server: the ``requests`` that it answered, and the ``tokens`` that it says it read.
    """

    pairs: int = 0
    tokens: int = 0
    seconds: float = 0.0
    processes: int = 0
    #: Queries that are too long for a prompt and were cut.
    cut_queries: int = 0
    requests: int = 0
    #: What `precision.measure_error` found, where the model computes in less than float32 on a CPU.
    error: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Work) -> Work:
        return Work(
            self.pairs + other.pairs,
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            max(self.processes, other.processes),
            max(self.cut_queries, other.cut_queries),
            self.requests + other.requests,
            largest((self.error, other.error)),
        )

    @property
    def pairs_per_second(self) -> float:
        return self.pairs / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def largest(errors: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    """Return the error of the model that differs most from float32; an empty one differs not at all."""
    return max(errors, key=lambda error: error.get("largest_difference", 0.0), default={})
