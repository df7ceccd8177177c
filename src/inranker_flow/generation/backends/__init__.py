"""What writes the queries: one small protocol, so that engines differ in a class and in nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.errors import UserError
from inranker_flow.generation.prompts import Template


@dataclass(frozen=True)
class Written:
    """The texts for some documents, in their order.

    ``texts``: for each document the generated texts, as they came. ``log_probabilities``: of each text the mean over its
    tokens, the one that ended it included (natural logarithm, before temperature and top_p); None where they were not
    asked for. ``cut``: which documents were longer than the prompt may hold. ``tokens`` generated in all.
    """

    texts: list[list[str]]
    log_probabilities: list[list[float]] | None
    cut: list[bool]
    tokens: int


class Backend(Protocol):
    """A query generator that is ready to write; made of a configuration and a template."""

    #: What the texts may depend on beside configuration and checkpoint: software with versions, what a server says.
    versions: Mapping[str, str]

    def generate(self, documents: Sequence[str], seed: int, done: Callable[[int], None]) -> Written:
        """`config.queries_per_document` texts for each document (crop: at most); the same for the same documents and seed.

        Documents that are too long are cut. Log-probabilities are given where ``config.keep_probable`` asks for them.
        ``done`` is called with the number of documents that were just finished.
        """
        ...


class LanguageModel(Backend, Protocol):
    """A backend with a language model: all but crop."""

    def cut(self, texts: Sequence[str], most: int) -> list[str]:
        """Return the beginning of each text that ``most`` tokens cover."""
        ...

    def prompted(self, template: Template) -> LanguageModel:
        """Return the same model, asked by another template with the same beginning and the same ends."""
        ...


def check_here(config: GenerateConfig) -> None:
    """Raise :class:`UserError` where the backend needs what this environment does not have."""
    if config.backend == "vllm" and find_spec("vllm") is None:
        raise UserError(
            f"{config.section}.backend: vllm is not installed here (it needs an environment of its own: the image "
            f'`generate` is one); SET="{config.section}.backend=transformers" takes what is here',
            code="backend-missing",
        )


_CLASSES = {
    "crop": "crop:CropBackend",
    "transformers": "transformers:TransformersBackend",
    "vllm": "vllm:VllmBackend",
    "openai": "openai:OpenAIBackend",
}


def load_backend(config: GenerateConfig, template: Template) -> Backend:
    """Return the backend that ``config.backend`` names, its model loaded or its server asked.

    Raises :class:`UserError` where it cannot do what the configuration and the template ask for.
    """
    check_here(config)
    module, _, name = _CLASSES[config.backend].partition(":")
    backend: Backend = getattr(import_module(f"{__name__}.{module}"), name)(config, template)
    return backend
