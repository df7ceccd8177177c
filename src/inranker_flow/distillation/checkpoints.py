"""The checkpoint of a training: a file in scratch for the next process of this pod, and a copy below the store for the next pod.

The copy is made in a thread while the training goes on, one at a time and always of the newest: a store that is slower than
`save_every` costs versions, not steps.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from inranker_flow.storage.local import atomic_write
from inranker_flow.store import unfinished

log = logging.getLogger(__name__)


class Checkpoint:
    """The checkpoint ``file``, with copies at ``place`` (`store.unfinished`; "" for none).

    As a context it ends with the last copy: with none that still waits where the training ended well, for then nobody will
    ask for it.
    """

    def __init__(self, file: Path, place: str = "") -> None:
        self.file, self._place = file, place
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._waiting: Future[None] | None = None
        self._copied = -1

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._waiting:
            self._waiting.cancel()
        self._pool.shutdown()

    def fetch(self, anew: bool) -> None:
        """Put the store's copy in place of the file where it is of a later step, or (``anew``) whatever the file is.

        Raises :class:`UserError` where the store does not answer.
        """
        if not self._place:
            return
        step = unfinished.load(self._place, self.file, -1 if anew else _step(self.file))
        if step is not None:
            log.info("checkpoint after step %s fetched from %s", step, self._place)

    def read(self) -> dict[str, Any] | None:
        """Return what was written; None where there is nothing, or nothing that can be read (a warning says so)."""
        if not self.file.exists():
            return None
        try:
            return _load(self.file)
        except Exception as error:  # whatever damaged bytes lead the unpickler to
            log.warning("%s: not readable, starting from the first step (%s)", self.file, error)
            return None

    def write(self, content: Mapping[str, Any]) -> None:
        """Keep ``content``, of which "step" is one; a kill leaves the checkpoint before or this one."""
        import torch

        # In memory first: torch's own writer turns a full disk into an error of its zip file.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with atomic_write(self.file) as out:
            out.write(buffer.getbuffer())
        if self._place:
            if self._waiting:
                self._waiting.cancel()  # unless it is on its way
            self._waiting = self._pool.submit(self._copy)

    def _copy(self) -> None:
        """Copy the file as it is now: the next checkpoint replaces it meanwhile."""
        held = self.file.with_name(f"{self.file.name}.copied")
        try:
            held.unlink(missing_ok=True)
            os.link(self.file, held)
            step = _step(held)
            if step > self._copied:
                unfinished.save(held, self._place, step)
                self._copied = step
                log.info("the store has the checkpoint after step %s", step)
        except Exception as error:  # whatever it is, it costs no step
            log.warning("the store has no copy of this checkpoint, so another pod would not find it: %s", error)
        finally:
            held.unlink(missing_ok=True)


def _load(file: Path, mapped: bool = False) -> dict[str, Any]:
    import torch

    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    return content


def _step(file: Path) -> int:
    """Return the step after which a checkpoint was written; -1 where it is not there or not readable."""
    try:
        return int(_load(file, mapped=True)["step"])
    except Exception:  # whatever damaged bytes lead the unpickler to
        return -1
