"""A bi-encoder: texts in, vectors out, in the batches that the rerankers have. Its vectors are sentence-transformers'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from inranker_flow.config.retrieval import DenseConfig
from inranker_flow.errors import CollectionFault
from inranker_flow.rankers import devices, kernels
from inranker_flow.rankers.batches import BATCH_TOKENS, PAD_TO, Batches
from inranker_flow.rankers.checkpoints import checkpoint_identity, load_body, read_file
from inranker_flow.retrieval.bi_encoder_form import read_form

if TYPE_CHECKING:
    from torch import Tensor

#: Of the vectors: raised when they come out otherwise.
_VERSION = 1
#: Texts that are tokenised at a time.
_TEXTS = 4096
#: Tokens of a text at most where nobody says (`max_length` 0): tokenizers without a limit say 10^30.
_MOST = 8192


def identity(config: DenseConfig) -> dict[str, Any]:
    """Return what a passage's vector follows from besides its text."""
    form = asdict(read_form(config.checkpoint, read_file(config.checkpoint, config.revision)))
    del form["query_prompt"]
    return {
        "version": _VERSION,
        "checkpoint": checkpoint_identity(config.checkpoint, config.revision),
        "form": form,
        "max_length": config.max_length,
        "dtype": devices.settled_dtype(config.dtype),
    }


class BiEncoder:
    """The checkpoint of the settings, loaded. Raises :class:`inranker_flow.errors.UserError` where it is none."""

    def __init__(self, config: DenseConfig) -> None:
        reference, revision = config.checkpoint, config.revision
        self._reference = reference
        self.form = read_form(reference, read_file(reference, revision))
        self.device = devices.pick_device()
        dtype = devices.pick_dtype(config.dtype, self.device)
        model, self.tokenizer = load_body(reference, revision, dtype)
        self.dimensions = int(model.config.hidden_size)
        own = self.form.max_length or min(
            self.tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", _MOST), _MOST
        )
        self.max_length = min(config.max_length or own, own)
        devices.limit_threads(model)
        self._batches = Batches(
            config.batch_tokens or BATCH_TOKENS[self.device.type], PAD_TO[dtype.itemsize], "retrieval.dense"
        )
        self._model = _fast(model.to(self.device), self.device)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of queries, float32 (texts, dimensions)."""
        return self._embed(texts, self.form.query_prompt)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of passages."""
        return self._embed(texts, self.form.passage_prompt)

    def _embed(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        skipped = 0 if self.form.include_prompt or not prompt else self._length(prompt)
        rows: list[list[int]] = []
        for first in range(0, len(texts), _TEXTS):
            rows += self._tokens([prompt + text for text in texts[first : first + _TEXTS]])
        lengths = np.array([len(row) for row in rows], np.int64)
        vectors = np.empty((len(rows), self.dimensions), np.float32)
        for places in self._batches.split(lengths):
            longest = int(lengths[places[0]])

            def forward(part: np.ndarray) -> np.ndarray:
                return self._forward([rows[place] for place in part], skipped)

            for part, found in self._batches.run(places, longest, forward):
                vectors[part] = found
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):  # they would find nothing, and nobody would find them
            raise CollectionFault(
                f"retrieval.dense.checkpoint: {self._reference}: {len(bad):,} of {len(texts):,} vectors are not finite numbers, "
                f"the first that of {texts[bad[0]][:80]!r}; use another checkpoint, or retrieval.dense.dtype float32",
                code="scores-not-finite",
            )
        return vectors

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return found

    def _length(self, prompt: str) -> int:
        """Return the tokens of a prompt, without the mark at their end."""
        [ids] = self._tokens([prompt])
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)

    def _forward(self, rows: list[list[int]], skipped: int) -> np.ndarray:
        import torch

        lengths = torch.tensor([len(row) for row in rows])
        width = self._batches.width(int(lengths.max()))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id or 0)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
        mask = torch.arange(width)[None] < lengths[:, None]
        ids, mask, lengths = (each.to(self.device) for each in (ids, mask, lengths))
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            vectors = self._pooled(hidden, mask, lengths, skipped).float()
            if self.form.normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
            found: np.ndarray = vectors.cpu().numpy()
        return found

    def _pooled(self, hidden: Tensor, mask: Tensor, lengths: Tensor, skipped: int) -> Tensor:
        import torch

        rows = torch.arange(len(hidden), device=hidden.device)
        if self.form.pooling == "cls":
            return hidden[rows, skipped * (lengths > skipped)]
        if self.form.pooling == "lasttoken":
            return hidden[rows, lengths - 1]
        weights = mask.float()
        weights[:, :skipped] = 0
        return torch.einsum("nld,nl->nd", hidden.float(), weights) / weights.sum(1, keepdim=True).clamp(min=1e-9)


def _fast(model: Any, device: Any) -> Any:
    """Return the model with its linear layers multiplied by oneDNN, where that works: as exact, and faster on many CPUs."""
    import torch

    if device.type != "cpu" or not kernels.onednn_works(model.dtype):
        return model
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if type(layer) is torch.nn.Linear and layer.weight.numel() >= kernels.SMALL_WEIGHT:
                setattr(module, name, kernels.PackedLinear(layer))
    return model
