"""Which pairs a student is trained on, and which are held out to choose its best step."""

from __future__ import annotations

import logging

import numpy as np

from inranker_flow.config.sections import DistillConfig
from inranker_flow.distillation.data import Examples, hold_out, with_several_documents
from inranker_flow.distillation.losses import Objective
from inranker_flow.errors import UserError

log = logging.getLogger(__name__)


def training_and_heldout(
    config: DistillConfig, examples: Examples, objective: Objective
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows of the pairs to train on, rows of the held-out pairs), both ordered by query."""
    rows = np.arange(len(examples.query))
    if objective.whole_queries:
        rows = with_several_documents(examples)
        if len(rows) < len(examples.query):
            log.warning(
                "%s of %s pairs are left out: the only labelled document of their query has no order to learn from",
                len(examples.query) - len(rows), len(examples.query),
            )  # fmt: skip
        if not len(rows):
            raise UserError(
                f"loss: {config.loss} compares the documents of a query, but no query of {', '.join(examples.names)} has "
                "two; use mse",
                code="setting-conflict",
            )
    if objective.reads_judgements and not (examples.relevance[rows] > 0).any():
        raise UserError(
            f"loss: {config.loss} learns from judgements, and no pair of {', '.join(examples.names)} is judged relevant; "
            "use mse, or give a source with judged training queries",
            code="nothing-to-train",
        )
    held = hold_out(examples, rows, config.holdout, config.holdout_max_queries)
    if held.all():
        raise UserError(
            f"holdout: {config.holdout} of the queries leaves none to train on; lower it", code="nothing-to-train"
        )
    if not held.any():
        log.warning("no query is held out (holdout %s): the last step is taken, not the best", config.holdout)
    return rows[~held], rows[held]
