"""One teacher's labels for the pairs of a data set: found in its store, computed here, or asked of its server."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from inranker_flow.config.sections import Teacher, TeacherConfig
from inranker_flow.errors import CollectionFault
from inranker_flow.labelling.average import Level, scores
from inranker_flow.labelling.label_store import identity_of
from inranker_flow.rankers import devices
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.scoring import engine
from inranker_flow.scoring.job import Checkpoint, Processes, ScoringJob, ShardedJob, Source, Work
from inranker_flow.scoring.logits import SCHEMA, Logits
from inranker_flow.scoring.rerank_apis import MOST_LOG_ODDS
from inranker_flow.scratch import scratch_folder
from inranker_flow.store.kept_rows import open_store
from inranker_flow.store.sharing import Share

log = logging.getLogger(__name__)

#: So many pairs with one score are no chance.
_ENOUGH = 64


@dataclass(frozen=True)
class Labels:
    """The logits of one teacher for ``pairs``. ``section``: the key of its section."""

    section: str
    teacher: Teacher
    pairs: pa.Table
    identity: dict[str, Any]
    known: Logits
    #: Folder of unfinished work.
    aside: Path

    @classmethod
    def open(
        cls, section: str, teacher: Teacher, pairs: pa.Table, keys: np.ndarray, digests: Sequence[list[str]]
    ) -> Labels:
        """Find what the store has; ``digests`` name the inputs that the pairs come from."""
        identity = identity_of(teacher)
        aside = scratch_folder("teacher_label", identity, list(digests))
        return cls(
            section, teacher, pairs, identity, Logits(open_store("labels", identity, SCHEMA, aside), keys), aside
        )

    def complete(self, config: TeacherConfig, source: Source, share: Share) -> Work:
        """Label what is missing. Returns what it cost."""
        log.info(
            "%s: %s of %s pairs are labelled already",
            self.teacher.checkpoint, f"{self.known.known_pairs:,}", f"{self.pairs.num_rows:,}",
        )  # fmt: skip
        job = ShardedJob(
            what="labelling",
            source=source,
            known=self.known,
            shard_pairs=config.shard_pairs,
            check=partial(_check_finite, self.teacher, self.pairs),
            share=share,
        )
        if self.teacher.backend == "server":
            from inranker_flow.scoring import (  # their client of HTTP is not wherever a model scores
                rerank_server,
                served,
            )

            return served.score(job, rerank_server.RerankServer(self.teacher, self.section))
        return self._compute(config, job)

    def _compute(self, config: TeacherConfig, job: ShardedJob) -> Work:
        teacher = self.teacher
        whole = ScoringJob(
            **vars(job),
            checkpoint=Checkpoint(teacher.checkpoint, teacher.revision, teacher.scoring),
            processes=Processes(config.processes, "teacher.processes"),
            folder=self.aside,
        )
        work = engine.score(whole, partial(load_ranker, teacher.checkpoint, teacher.scoring, teacher.revision))
        if work.pairs:
            devices.free()  # one model at a time
        return work

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of this teacher, once nothing is missing: the level of its scores too."""
        teacher, found = self.teacher, scores(self.known.values)
        level = Level.of(found)
        if found.size >= _ENOUGH and found.min() == found.max():
            raise CollectionFault(
                f"{teacher.checkpoint}: gives all {found.size:,} pairs the same score, {found[0]:.4g}, so there is no order to "
                f"learn; look at the model of {self.section}, and set another {self.section}.revision to ask for them again",
                code="scores-alike",
            )
        about: dict[str, Any] = {
            "teacher": teacher.checkpoint,
            "revision": teacher.revision,
            "backend": teacher.backend,
            "identity": self.identity,
            "mean": level.mean,
            "deviation": level.deviation,
        }
        if teacher.backend == "server" and found.size:
            about |= {"least": float(found.min()), "largest": float(found.max())}
        if teacher.backend == "server" and teacher.server.scores == "probability":
            about["clipped"] = int((np.abs(found) >= MOST_LOG_ODDS * (1 - 1e-9)).sum())
            log.info("%s: the log odds of %s of its probabilities were clipped", teacher.checkpoint, about["clipped"])
        return about


def _check_finite(teacher: Teacher, pairs: pa.Table, rows: np.ndarray, logits: np.ndarray) -> None:
    bad = rows[~np.isfinite(logits).all(axis=1)]
    if bad.size:
        query_id, doc_id = (pairs.column(name)[int(bad[0])].as_py() for name in ("query_id", "doc_id"))
        raise CollectionFault(
            f"{teacher.checkpoint}: {bad.size} of {len(rows)} pairs have logits that are not finite, first ({query_id}, "
            f"{doc_id}); set the teacher's scoring.dtype to float32 or bfloat16, or check the checkpoint's weights",
            code="logits-not-finite",
        )
