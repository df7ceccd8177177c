"""Several processes that train one student together, each on its part of every batch.

The gradient is added up here and not by DistributedDataParallel: parts are cut by tokens, so processes have different
numbers of them (the last batch of an epoch may leave one with none), shares add up to the whole batch and are no means of
equal parts, and the sum is in fp32 whatever the weights are in. A step is then that of one process with the whole batch.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inranker_flow.environment import changes, variables
from inranker_flow.environment.variables import started_together
from inranker_flow.errors import UserError
from inranker_flow.rankers.devices import pick_device
from inranker_flow.tracking.runs import run_here

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

#: Gradients travel in pieces of this many numbers: the next is packed while one is on its way.
BUCKET = 16 * 2**20
#: A process may wait this long for another (one that reads a large checkpoint); the default is ten minutes.
PATIENCE = timedelta(hours=2)


class Processes:
    """This process among those that train together: alone unless `accelerate launch` (or torchrun) started it.

    Raises :class:`UserError` for ways of sharing the work that are not this one's.
    """

    def __init__(self) -> None:
        from accelerate import PartialState

        for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            if variables.accelerate_uses(name):
                raise UserError(
                    f"distill: started by accelerate with {name}, which splits the weights; a student is small enough for "
                    "each GPU to hold all of it, so use `accelerate launch --multi_gpu` (and gradient_checkpointing: true "
                    "where memory is short)",
                    code="accelerate-unsupported",
                )
        cpu = pick_device().type == "cpu"
        options = {"timeout": PATIENCE} if started_together() else {}
        state = PartialState(cpu=cpu, **options)
        self.rank, self.count, self.device = state.process_index, state.num_processes, state.device
        #: Whether this is the first process of its machine, and how many machines there are.
        self.first_here = state.local_process_index == 0
        self.machines = self.count // variables.processes_here(self.count)
        self.wait = state.wait_for_everyone

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, which hold tensors of the same shapes in the same order."""
        if self.count == 1:
            return
        import torch
        from torch import distributed

        work, bucket, size = [], [], 0
        remaining = list(tensors)
        for place, tensor in enumerate(remaining, 1):
            bucket.append(tensor)
            size += tensor.numel()
            if size >= BUCKET or place == len(remaining):
                flat = torch.cat([each.reshape(-1) for each in bucket])
                work.append((distributed.all_reduce(flat, async_op=True), flat, bucket))
                bucket, size = [], 0
        for handle, flat, parts in work:
            handle.wait()
            for part, total in zip(parts, flat.split([each.numel() for each in parts]), strict=True):
                part.copy_(total.view_as(part))

    def all(self, value: Any) -> list[Any]:
        """Return ``value`` of every process, by rank."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values


def launch(count: int, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run ``job`` (see `distillation.__main__`) in ``count`` processes on this machine; returns its stats.

    Where this is one of several machines (:func:`nodes`) they find each other by what torchrun reads for itself: number of
    the machine, address and port of the first (``PET_NODE_RANK``, ``PET_MASTER_ADDR``, ``PET_MASTER_PORT``).

    Raises :class:`UserError` with the line of the process that refused, and RuntimeError for a process that died.
    """
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    request = folder / "job.json"
    request.write_text(json.dumps({**job, "answer": str(answer)}), encoding="utf-8")
    log.info("training in %s processes", count)
    # What `accelerate launch --multi_gpu` runs, without what a configuration file of the user's would add to it.
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}"]
    launcher += ["--standalone"] if variables.nodes() == 1 else []
    threads = {} if variables.threads_are_set() else {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // count, 1))}
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "inranker_flow.distillation", str(request)],
        env=changes.for_child({**threads, variables.STAGE_RUN: run_here()}),
        check=False,
    )
    told = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    if "error" in told:
        raise UserError(told["error"], code=told["code"])
    if done.returncode or "stats" not in told:
        raise RuntimeError(f"a training process ended with status {done.returncode}; its own lines above say why")
    stats: dict[str, Any] = told["stats"]
    return stats
