"""How many steps a training has, and the optimiser's rate in each."""

from __future__ import annotations

import logging

from inranker_flow.config.sections import DistillConfig

log = logging.getLogger(__name__)


def learning_rate(step: int, total: int, warmup: int, peak: float, final: float = 0.0) -> float:
    """Return the rate of the optimiser step number ``step`` (from 0) of ``total``.

    Linear warm-up from 0, then linear decay to ``final * peak`` at ``total``; with ``final`` = 0 that is
    peak * min(t / W, (T - t) / (T - W)), the official trainer's (InRanker, HF Trainer's ``linear`` schedule).
    """
    if step < warmup:
        return peak * step / warmup
    return peak * (final + (1 - final) * (total - step) / (total - warmup))


def plan(config: DistillConfig, steps_per_epoch: int) -> tuple[int, int]:
    """Return (steps in all, warm-up steps). A warm-up that would not end before the training does is cut to a tenth of it."""
    total = config.epochs * steps_per_epoch
    if config.max_steps > 0:
        total = min(total, config.max_steps)
    warmup = config.warmup_steps
    if warmup >= total:
        warmup = total // 10
        log.warning(
            "warmup_steps %s is not less than the %s steps of this training: warming up for %s steps instead",
            config.warmup_steps, total, warmup,
        )  # fmt: skip
    return total, warmup
