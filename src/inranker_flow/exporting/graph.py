"""What the graph of a student is fed and answers, and the module that is traced for it.

The prompts are those of the kind's reader (`rankers.base.Reader`): a graph begins where token ids are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from inranker_flow.rankers.base import Reader


class Graph(ABC):
    """A checkpoint's graph: ``inputs`` by name, and its reader."""

    inputs: tuple[str, ...]
    reader: Reader

    @abstractmethod
    def feeds(self, *prompts: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the ``inputs`` out of the arrays of `Prompts.inputs`, int64 (n, length) each."""

    @abstractmethod
    def logits(self, found: np.ndarray) -> np.ndarray:
        """Return logits [false, true], float32 (n, 2), out of what the graph answers."""

    @abstractmethod
    def module(self) -> Any:
        """Return the torch module on the CPU, in float32, that maps ``inputs`` to what :meth:`logits` takes."""

    def example(self) -> tuple[np.ndarray, ...]:
        """Return inputs of two prompts of unequal length, so that one is padded."""
        texts = ["a passage", "a passage of more words than the other one has"]
        prompts = self.reader.prepare(["a query"], texts, np.array([[0, 0], [0, 1]]))
        return self.feeds(*prompts.inputs(np.arange(2)))


def named(module: Any, names: Sequence[str]) -> Any:
    """Return a module of transformers as one with positional inputs: it answers with its logits."""
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: Any) -> Any:
            return self.module(**dict(zip(names, inputs, strict=True))).logits

    return Named().eval()
