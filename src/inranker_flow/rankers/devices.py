"""Where a model computes: device, precision, threads."""

from __future__ import annotations

import gc
import logging
from typing import Any, Literal

from inranker_flow.environment import variables
from inranker_flow.errors import UserError

log = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16", "int8"]

#: Parameters below which one CPU thread is enough.
SMALL_MODEL = 2_000_000


def pick_dtype(setting: str, device: Any) -> Any:
    """Return torch dtype of the weights for ``auto``, ``float32``, ``bfloat16`` or ``int8`` (which is made of float32).

    auto is bfloat16 on a GPU that computes in it. Raises :class:`UserError` where ``device`` cannot compute in 8 bits.
    """
    import torch

    if setting == "int8":
        check_int8(device)
        return torch.float32
    if setting == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return getattr(torch, setting)


def settled_dtype(setting: Dtype) -> Dtype:
    """Return what ``setting`` means on this machine: ``auto`` is the name of one of the others."""
    found: Dtype = str(pick_dtype(setting, pick_device())).removeprefix("torch.") if setting == "auto" else setting  # type: ignore[assignment]
    return found


def rounds_on_cpu(setting: Dtype) -> bool:
    """Return whether ``setting`` is less than float32 on a CPU, so that its error is measured on the job's own pairs."""
    return pick_device().type == "cpu" and settled_dtype(setting) != "float32"


def check_int8(device: Any) -> None:
    """Raise :class:`UserError` where there are no 8-bit products; say where they are not worth it."""
    import torch

    from inranker_flow.rankers.kernels import int8_works

    if device.type != "cpu":
        raise UserError(
            f"scoring.dtype: int8 is for CPUs, and this machine computes on {device}; set it to bfloat16",
            code="device-unsuitable",
        )
    if not int8_works():
        raise UserError(
            "scoring.dtype: int8 needs a CPU with VNNI instructions; set it to float32", code="device-unsuitable"
        )
    if torch.cpu._is_amx_tile_supported():
        log.warning("scoring.dtype: this CPU has AMX, with which bfloat16 is as fast as int8, and more exact")


def pick_device() -> Any:
    """Return the GPU when there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def count_processes(setting: int, name: str) -> int:
    """Return the number of processes that ``setting`` asks for (0: one for each GPU, one without GPUs); ``name`` is what it is
    called.

    Raises :class:`UserError` where there are not the GPUs.
    """
    import torch

    gpus = torch.cuda.device_count()
    if setting > gpus > 0:
        raise UserError(
            f"{name}: {setting}, but this machine has {gpus} GPUs, one for each; lower it or set it to 0",
            code="device-unsuitable",
        )
    return setting or max(gpus, 1)


def free() -> None:
    """Give back the memory of models and batches that nobody holds any more: processes cannot use what this one keeps."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def limit_threads(model: Any) -> None:
    """One CPU thread for a very small model: its steps end before a second thread has woken up.

    On a busy machine two threads are not merely no faster: each operation waits at a barrier for a thread that another
    process has pushed aside (measured on 2 cores with the demo's student: 0.035 s a step with one, over 1 s with two).
    ``OMP_NUM_THREADS`` decides where it is set.
    """
    import torch

    if not variables.threads_are_set() and sum(each.numel() for each in model.parameters()) < SMALL_MODEL:
        torch.set_num_threads(1)


def device_name() -> str:
    """Return the name of the device of this process, for its records: the GPU's, otherwise cpu."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "cpu"
