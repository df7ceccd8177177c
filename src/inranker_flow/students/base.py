"""The interface of a student: training, saving and the model card ask its kind through it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inranker_flow.config.sections import DistillConfig
from inranker_flow.reading import Trained

if TYPE_CHECKING:
    from torch import nn

    from inranker_flow.rankers.base import Reader

#: The number of a layer in the name of a weight (``encoder.layer.3.``, ``block.3.``, ``layers.3.``, ``h.3.``).
_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.")
#: Names of token embeddings and what belongs to them.
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:shared|embeddings?|embed_tokens|embed_in|tok_embeddings|wte|word_embeddings)\.")


class Student(ABC):
    """A model in training: weights, and the reader that makes its inputs in training, evaluation and serving alike."""

    #: The transformers model: its parameters are trained, its ``save_pretrained`` writes the folder.
    model: Any
    tokenizer: Any
    reader: Reader
    #: How it reads, for its folder's scoring.json.
    reads: Trained

    @abstractmethod
    def __init__(self, reference: str, config: DistillConfig, revision: str = "") -> None:
        """Load the checkpoint ``reference`` (see `rankers.checkpoints`) in float32, to be trained as ``config`` says."""

    @abstractmethod
    def scorer(self, checkpointing: bool) -> nn.Module:
        """Return the module of training: the reader's inputs as tensors -> logits [false, true], float32 (pairs, 2).

        ``checkpointing``: keep less for the backward pass and compute it again.
        """

    @property
    def width(self) -> int:
        """Numbers of a token's hidden state."""
        return int(getattr(self.model.config, "hidden_size", 0) or 512)

    def has_gradient(self, name: str) -> bool:
        """Return whether the weight ``name`` has a part in the score."""
        return True

    def finish(self) -> Any:
        """Make the model what its folder is to hold, after the last step; return it."""
        return self.model

    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face folder: weights in fp32 and the tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.init_kwargs.pop(
            "local_files_only", None
        )  # whether a hub was at hand is nothing of the student's
        self.tokenizer.save_pretrained(folder)


def depth(name: str, layers: int) -> int:
    """Return how far a weight is from the input: 0 for embeddings, 1 to ``layers`` in the layers, one more for the head."""
    if found := _LAYER.search(name):
        return int(found[1]) + 1
    return 0 if is_embedding(name) else layers + 1


def is_in_layer(name: str) -> bool:
    """Return whether a weight belongs to a numbered layer."""
    return bool(_LAYER.search(name))


def is_embedding(name: str) -> bool:
    """Return whether a weight belongs to the embeddings of tokens."""
    return bool(_EMBEDDINGS.search(name)) and not _LAYER.search(name)
