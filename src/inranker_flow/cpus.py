"""How many CPUs this process may use: what its affinity allows and, in a container, its limit pays for."""

from __future__ import annotations

import os
from pathlib import Path


def available(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the whole CPUs, at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(_limit(cgroup) or allowed)))


def _limit(cgroup: Path) -> float | None:
    """Return the quota of the cgroup (version 2, else 1) in CPUs; None where there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((cgroup / f"cpu/cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return None
    return float(quota) / float(period) if quota not in ("max", "-1") else None
