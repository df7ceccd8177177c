"""Speeds for plans whose test is about something else."""

from __future__ import annotations

from typing import Any

from inranker_flow.planning.planner import Speeds
from inranker_flow.planning.speed import Sample, Speed, Work, by_size


def by_size_alone(device: str) -> Speeds:
    """Return speeds from sizes, which costs nothing."""

    def speed(work: Work, section: Any, sample: Sample) -> Speed:
        return by_size(work, section.checkpoint, device, sample, getattr(section, "batch_size", 1))

    return speed
