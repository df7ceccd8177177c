"""Where a model computes: device, precision, threads."""

from __future__ import annotations

import os
from typing import Any

#: Parameters below which one CPU thread is enough.
SMALL_MODEL = 2_000_000


def pick_dtype(setting: str, device: Any) -> Any:
    """torch dtype for ``auto``, ``float32`` or ``bfloat16``: auto is bfloat16 on a GPU that computes in it."""
    import torch

    if setting == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return getattr(torch, setting)


def pick_device() -> Any:
    """The GPU when there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def limit_threads(model: Any) -> None:
    """One CPU thread for a very small model: its steps end before a second thread has woken up.

    On a busy machine two threads are not merely no faster: each operation waits at a barrier for a thread that another
    process has pushed aside (measured on 2 cores with the demo's student: 0.035 s a step with one, over 1 s with two).
    ``OMP_NUM_THREADS`` decides where it is set.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ and sum(each.numel() for each in model.parameters()) < SMALL_MODEL:
        torch.set_num_threads(1)


def device_name() -> str:
    """What models compute on in this process, for its records: the GPU's name, else cpu."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "cpu"
