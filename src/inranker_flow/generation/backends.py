"""What writes the queries: one small protocol, so that engines differ in a class and in nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from inranker_flow.config import GenerateConfig
from inranker_flow.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """``texts``: for each prompt the generated texts, as they came; ``tokens`` generated in all."""

    texts: list[list[str]]
    tokens: int


class Backend(Protocol):
    """A loaded query generator."""

    def cut(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Each text cut to ``max_tokens`` of the generator's own tokens."""
        ...

    def generate(self, prompts: Sequence[str], seed: int, done: Callable[[int], None]) -> Written:
        """`config.queries_per_document` texts for each prompt, in order; the same for the same prompts and seed.

        ``done`` is called with the number of prompts that were just finished.
        """
        ...


def load_backend(config: GenerateConfig) -> Backend:
    """The backend that ``config.backend`` names, its model loaded."""
    return {"transformers": TransformersBackend}[config.backend](config)


class TransformersBackend:
    """`transformers.generate` with a causal or an encoder-decoder checkpoint."""

    def __init__(self, config: GenerateConfig) -> None:
        from transformers import GenerationConfig

        from inranker_flow.rankers.checkpoints import load_generator
        from inranker_flow.rankers.devices import limit_threads, pick_device, pick_dtype

        self.config = config
        self.device = pick_device()
        dtype = pick_dtype(config.dtype, self.device)
        self.model, self.tokenizer = load_generator(config.checkpoint, config.revision, dtype)
        self.causal = not self.model.config.is_encoder_decoder
        self.model.to(self.device)
        limit_threads(self.model)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        sampled = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0} if config.temperature else {}
        known = self.model.generation_config
        start = known.decoder_start_token_id
        if start is None:
            start = getattr(self.model.config, "decoder_start_token_id", None)
        # Made anew: a checkpoint's own generation settings (beams, penalties, lengths) would change what is written.
        self.model.generation_config = GenerationConfig(
            do_sample=bool(sampled),
            num_return_sequences=config.queries_per_document,
            max_new_tokens=config.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self._stops(known.eos_token_id),
            bos_token_id=known.bos_token_id,
            decoder_start_token_id=start,
            **sampled,
        )
        precision = str(dtype).removeprefix("torch.")
        log.info("%s: %s on %s in %s", config.checkpoint, type(self.model).__name__, self.device, precision)

    def _stops(self, eos: int | list[int] | None) -> list[int]:
        """Tokens that end a query: the end mark, and for causal models whatever holds a line end."""
        stops = {*(eos if isinstance(eos, list) else [eos]), self.tokenizer.eos_token_id} - {None}
        if self.causal:
            pieces = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
            stops |= {token for token, piece in enumerate(pieces) if "\n" in piece}
        return sorted(stops)

    def cut(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """The beginning of each text, exactly as it stands there, that ``max_tokens`` tokens cover."""
        offsets = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        return [
            text[: spans[max_tokens - 1][1]].rstrip() if len(spans) > max_tokens else text
            for text, spans in zip(texts, offsets, strict=True)
        ]

    def generate(self, prompts: Sequence[str], seed: int, done: Callable[[int], None]) -> Written:
        """Sorted by length, in batches; each batch has a seed of its own."""
        import torch

        ids = self.tokenizer(list(prompts), truncation=False, return_attention_mask=False, verbose=False)["input_ids"]
        lengths = np.array([len(each) for each in ids])
        self._check_room(int(lengths.max()))
        order = np.argsort(-lengths, kind="stable")
        texts: list[list[str]] = [[] for _ in prompts]
        tokens = 0
        with torch.inference_mode(), torch.random.fork_rng():
            for start in range(0, len(order), self.config.batch_size):
                batch = order[start : start + self.config.batch_size]
                torch.manual_seed(seed + start)
                written = self._generate([ids[row] for row in batch])
                decoded = self.tokenizer.batch_decode(written, skip_special_tokens=True)
                tokens += int((written != self.tokenizer.pad_token_id).sum())
                each = self.config.queries_per_document
                for position, row in enumerate(batch):
                    texts[row] = decoded[position * each : (position + 1) * each]
                done(len(batch))
        return Written(texts, tokens)

    def _generate(self, ids: list[list[int]]) -> Any:
        """New token ids, (len(ids) * queries_per_document, at most max_new_tokens)."""
        import torch

        width = max(map(len, ids))
        batch = np.full((len(ids), width), self.tokenizer.pad_token_id, np.int64)
        mask = np.zeros_like(batch)
        for row, each in enumerate(ids):
            # Causal prompts end together, so that what is generated follows the prompt and not padding.
            where = slice(width - len(each), width) if self.causal else slice(0, len(each))
            batch[row, where] = each
            mask[row, where] = 1
        output = self.model.generate(
            input_ids=torch.from_numpy(batch).to(self.device), attention_mask=torch.from_numpy(mask).to(self.device)
        )
        return output[:, width if self.causal else 1 :]

    def _check_room(self, longest: int) -> None:
        needed = longest + (self.config.max_new_tokens if self.causal else 0)
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit and needed > limit:
            raise UserError(
                f"{self.config.checkpoint}: a prompt of {longest} tokens (and {self.config.max_new_tokens} new ones) exceeds "
                f"its context of {limit}; lower generation.max_document_tokens or max_new_tokens"
            )
