"""The backend `transformers`: a causal or an encoder-decoder checkpoint with `transformers.generate`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import copy
from importlib.metadata import version
from typing import Any

import numpy as np

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.generation.backends import Written
from inranker_flow.generation.backends.local import Prompter
from inranker_flow.generation.prompts import Template
from inranker_flow.rankers import known_beginning
from inranker_flow.rankers.checkpoints import load_generator
from inranker_flow.rankers.devices import limit_threads, pick_device, pick_dtype
from inranker_flow.rankers.known_beginning import KnownBeginning

log = logging.getLogger(__name__)


class TransformersBackend:
    """Writes in batches of `config.batch_size`, on whatever device is here.

    What all prompts begin with, such as examples, a causal model reads once, where its attention allows.
    """

    def __init__(self, config: GenerateConfig, template: Template) -> None:
        from transformers import GenerationConfig

        self.config = config
        self.device = pick_device()
        dtype = pick_dtype(config.dtype, self.device)
        self.model, self.tokenizer = load_generator(config.checkpoint, config.revision, dtype)
        self.causal = not self.model.config.is_encoder_decoder
        # An encoder has its own room, and what is known of T5's is no limit.
        context = getattr(self.model.config, "max_position_embeddings", None)
        beside = config.max_new_tokens if self.causal else 0
        self.prompter = Prompter(self.tokenizer, template, config, context, beside)
        self.model.to(self.device)
        limit_threads(self.model)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        sampled = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0} if config.temperature else {}
        known = self.model.generation_config
        start = known.decoder_start_token_id
        if start is None:
            start = getattr(self.model.config, "decoder_start_token_id", None)
        self.stops = self._stops(known.eos_token_id, template)
        # Made anew: a checkpoint's own generation settings (beams, penalties, lengths) would change what is written.
        self.model.generation_config = GenerationConfig(
            do_sample=bool(sampled),
            num_return_sequences=config.queries_per_document,
            max_new_tokens=config.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.stops,
            bos_token_id=known.bos_token_id,
            decoder_start_token_id=start,
            **sampled,
        )
        self.known = known_beginning.compute(self.model, self.prompter.beginning) if self.causal else None
        precision = str(dtype).removeprefix("torch.")
        self.versions = {name: version(name) for name in ("transformers", "torch")}
        self.versions |= {"device": self.device.type, "precision": precision}
        log.info("%s: %s on %s in %s", config.checkpoint, type(self.model).__name__, self.device, precision)

    def _stops(self, eos: int | list[int] | None, template: Template) -> list[int]:
        """Return tokens that end a query: the end mark, and for causal models whatever holds one of the template's ends."""
        stops = {*(eos if isinstance(eos, list) else [eos]), self.tokenizer.eos_token_id} - {None}
        if self.causal and template.stop:
            pieces = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
            stops |= {token for token, piece in enumerate(pieces) if any(end in piece for end in template.stop)}
        return sorted(stops)

    def cut(self, texts: Sequence[str], most: int) -> list[str]:
        """Return the beginning of each text that ``most`` tokens cover."""
        return self.prompter.cut(texts, most)

    def prompted(self, template: Template) -> TransformersBackend:
        """Return the same model, asked by another template."""
        other = copy(self)
        other.prompter = self.prompter.prompted(template)
        return other

    def generate(self, documents: Sequence[str], seed: int, done: Callable[[int], None]) -> Written:
        """Sorted by length, in batches; each batch has a seed of its own."""
        import torch

        ids, cut = self.prompter.fit(documents)
        order = np.argsort([-len(each) for each in ids], kind="stable")
        texts: list[list[str]] = [[] for _ in ids]
        means: list[list[float]] | None = [[] for _ in ids] if self.config.keep_probable else None
        tokens, each = 0, self.config.queries_per_document
        with torch.inference_mode(), torch.random.fork_rng():
            for start in range(0, len(order), self.config.batch_size):
                batch = order[start : start + self.config.batch_size]
                torch.manual_seed(seed + start)
                written, probable = self._generate([ids[row] for row in batch])
                decoded = self.tokenizer.batch_decode(written, skip_special_tokens=True)
                tokens += int((written != self.tokenizer.pad_token_id).sum())
                for position, row in enumerate(batch):
                    texts[row] = decoded[position * each : (position + 1) * each]
                    if means is not None:
                        means[row] = probable[position * each : (position + 1) * each]
                done(len(batch))
        return Written(texts, means, cut, tokens)

    def _generate(self, ids: list[list[int]]) -> tuple[Any, list[float]]:
        """Return the new token ids, (len(ids) * queries_per_document, at most max_new_tokens), and what :class:`Written` has
        of each."""
        import torch

        known = self._known_of(ids)
        rest = [each[len(known.ids) :] for each in ids] if known else ids
        width = max(map(len, rest))
        batch = np.full((len(ids), width), self.tokenizer.pad_token_id, np.int64)
        mask = np.zeros_like(batch)
        for row, each in enumerate(rest):
            # Causal prompts end together, so that what is generated follows the prompt and not padding.
            where = slice(width - len(each), width) if self.causal else slice(0, len(each))
            batch[row, where] = each
            mask[row, where] = 1
        given = {}
        if known:
            batch = np.hstack([np.tile(known.ids, (len(ids), 1)), batch])
            mask = np.pad(mask, ((0, 0), (len(known.ids), 0)), constant_values=1)
            rows = len(ids) * self.config.queries_per_document
            given["past_key_values"] = known.to_continue(rows, width + self.config.max_new_tokens)
        wanted = bool(self.config.keep_probable)
        output = self.model.generate(
            input_ids=torch.from_numpy(batch).to(self.device),
            attention_mask=torch.from_numpy(mask).to(self.device),
            return_dict_in_generate=True,
            output_logits=wanted,
            **given,
        )
        written = output.sequences[:, batch.shape[1] if self.causal else 1 :]
        return written, self._means(written, output.logits) if wanted else []

    def _known_of(self, ids: list[list[int]]) -> KnownBeginning | None:
        """Return the beginning whose keys and values are known, where all of these prompts begin so and go on."""
        if self.known is None:
            return None
        held = len(self.known.ids)
        alike = all(each[:held] == self.known.ids and len(each) > held for each in ids)
        return self.known if alike else None

    def _means(self, written: Any, logits: Sequence[Any]) -> list[float]:
        """Return the mean log-probability of each row of ``written``; ``logits``: for each position (rows, vocabulary)."""
        import torch

        rows = torch.arange(len(written), device=written.device)
        each = torch.stack(
            [step.float().log_softmax(-1)[rows, written[:, at]] for at, step in enumerate(logits)], dim=1
        )
        ends = torch.isin(written, torch.tensor(self.stops, device=written.device)).long()
        counted = ends.cumsum(1) - ends == 0  # up to the first end, which counts
        means: list[float] = ((each * counted).sum(1) / counted.sum(1)).tolist()
        return means
