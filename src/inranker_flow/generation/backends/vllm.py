"""The backend `vllm`: vLLM in this process, as an offline batch. It brings its own torch, so its own environment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.environment import changes
from inranker_flow.errors import UserError
from inranker_flow.generation.backends import Written
from inranker_flow.generation.backends.local import Prompter
from inranker_flow.generation.prompts import Template
from inranker_flow.rankers.checkpoints import load_config, load_tokenizer, locate

log = logging.getLogger(__name__)


#: To compile takes a CPU longer than it gains; and a prompt in parts cannot be sampled with a seed there ("CPU Generator does
#: not use offset", vLLM 0.32).
_ON_CPU = {"enforce_eager": True, "enable_chunked_prefill": False}


class VllmBackend:
    """`LLM.generate`, the prompts' common beginning computed once, the model split over all GPUs that are here."""

    def __init__(self, config: GenerateConfig, template: Template) -> None:
        changes.default("VLLM_NO_USAGE_STATS", "1")  # it tells nobody what it does here
        import vllm
        from vllm.platforms import current_platform as platform

        folder = locate(config.checkpoint)
        known = load_config(config.checkpoint, config.revision)
        if known.is_encoder_decoder:
            raise UserError(
                f"{config.checkpoint}: vLLM runs no {known.model_type} (encoder-decoder); give a causal language model, or "
                f"set {config.section}.backend to transformers",
                code="checkpoint-kind",
            )
        self.config = config
        tokenizer = load_tokenizer(config.checkpoint, config.revision)
        context = getattr(known.get_text_config(), "max_position_embeddings", None)
        self.prompter = Prompter(tokenizer, template, config, context, config.max_new_tokens)
        needed = self.prompter.longest + config.max_new_tokens
        self.llm: Any = vllm.LLM(
            model=str(folder or config.checkpoint),
            revision=None if folder else config.revision or None,
            dtype=config.dtype,
            trust_remote_code=False,
            seed=0,
            enable_prefix_caching=True,
            tensor_parallel_size=1
            if platform.is_cpu()
            else _split(known.get_text_config().num_attention_heads, _gpus()),
            # Room is kept for what is needed, not for all that the model could hold.
            max_model_len=min(context, needed) if context else needed,
            disable_log_stats=True,
            **(_ON_CPU if platform.is_cpu() else {}),
        )
        self.versions = {"vllm": vllm.__version__, "torch": _version("torch"), "transformers": _version("transformers")}
        self._sampling = {
            "n": config.queries_per_document,
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "stop": list(template.stop),
            "logprobs": 0 if config.keep_probable else None,
        }

    def cut(self, texts: Sequence[str], most: int) -> list[str]:
        """Return the beginning of each text that ``most`` tokens cover."""
        return self.prompter.cut(texts, most)

    def prompted(self, template: Template) -> VllmBackend:
        """Return the same model, asked by another template."""
        other = copy(self)
        other.prompter = self.prompter.prompted(template)
        return other

    def generate(self, documents: Sequence[str], seed: int, done: Callable[[int], None]) -> Written:
        """Return one call for all; each document has a seed of its own, so it does not matter how vLLM batches them."""
        from vllm import SamplingParams

        ids, cut = self.prompter.fit(documents)
        outputs = self.llm.generate(
            [{"prompt_token_ids": each} for each in ids],
            [SamplingParams(**self._sampling, seed=seed + row) for row in range(len(ids))],
            use_tqdm=False,
        )
        done(len(ids))
        texts = [[each.text for each in output.outputs] for output in outputs]
        means = None
        if self.config.keep_probable:
            means = [
                [each.cumulative_logprob / max(len(each.token_ids), 1) for each in output.outputs] for output in outputs
            ]
        return Written(texts, means, cut, sum(len(each.token_ids) for output in outputs for each in output.outputs))


def _split(heads: int, gpus: int) -> int:
    """Over how many GPUs a model is split: a power of two, so that attention heads (and shared ones) come out even."""
    return max(1 << power for power in range(max(gpus, 1).bit_length()) if heads % (1 << power) == 0)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
