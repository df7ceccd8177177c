"""The label store: the teacher's two logits under what they depend on, for every run and corpus that comes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inranker_flow.config.parsing import deciding
from inranker_flow.config.sections import ScoringConfig, Teacher
from inranker_flow.rankers import devices, forms
from inranker_flow.rankers.checkpoints import checkpoint_identity
from inranker_flow.rankers.monot5_prompt import RENDERER_VERSION
from inranker_flow.scoring.job import Checkpoint
from inranker_flow.scoring.rerank_apis import CLIENT_VERSION


def label_identity(teacher: Checkpoint) -> dict[str, Any]:
    """Return the identity of a label besides the texts: the teacher's content, the renderer, the settings of scoring.

    ``dtype: auto`` is what it means on this machine: labels in bfloat16 and in float32 never mix.
    """
    return {
        "checkpoint": checkpoint_identity(teacher.reference, teacher.revision),
        "renderer": RENDERER_VERSION,
        "scoring": deciding(_resolved(teacher)),
    }


def identity_of(teacher: Teacher) -> dict[str, Any]:
    """Return the identity of a label of ``teacher``. What a server is asked for is in it, its address is not."""
    if teacher.backend == "local":
        return label_identity(Checkpoint(teacher.checkpoint, teacher.revision, teacher.scoring))
    served = {"model": teacher.checkpoint, "revision": teacher.revision}
    return {"served": served, "server": deciding(teacher.server), "client": CLIENT_VERSION}


def _resolved(teacher: Checkpoint) -> ScoringConfig:
    scoring = forms.identity(teacher.reference, teacher.scoring, teacher.revision)
    return replace(scoring, dtype=devices.settled_dtype(scoring.dtype))
