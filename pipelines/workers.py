"""Labelling and generation of one collection by several pods (`cluster.workers`): one that writes the artifact, and others.

The others are a loop beside it, and nothing waits for them: the pod that writes takes from the store what they have done,
and does itself what nobody has. One that is lost is tried again, and its share is meanwhile anybody's.
"""

from __future__ import annotations

from typing import Any

from kfp import dsl

from components import generate_queries, help_generate, help_label, teacher_label
from pipelines.placement import helpers


def label(which: str, *, collection: Any, candidates: Any, config: Any) -> Any:
    """Return the task `teacher_label` for ``which`` ("source" or "target"), and the loop that helps it."""
    given = {"collection": collection, "candidates": candidates, "config": config}
    task = teacher_label(**given).set_display_name(f"Label {which}")
    if numbers := helpers():
        with dsl.ParallelFor(numbers, name=f"label-{which}") as worker:
            help_label(**given, worker=worker).set_display_name(f"Help label {which}")
    return task


def generate(*, collection: Any, config: Any, corpus: Any, retrieval: Any) -> Any:
    """Return the task `generate_queries`, and the loop that helps it."""
    given = {"collection": collection, "config": config, "corpus": corpus}
    task = generate_queries(**given, retrieval=retrieval).set_display_name("Generate queries")
    if numbers := helpers():
        with dsl.ParallelFor(numbers, name="generate") as worker:
            help_generate(**given, worker=worker).set_display_name("Help generate queries")
    return task
