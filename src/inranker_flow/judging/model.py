"""A judge as the backends of generation are told of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from inranker_flow.config.language_model import JudgeConfig, LanguageModelConfig
from inranker_flow.config.sections import GenerateConfig

#: Tokens of a query that the prompt may hold.
QUERY_TOKENS = 128
#: Tokens of the words between query and passage, and what may come where they meet.
_SEAM = 32


@dataclass(frozen=True)
class _Grading(GenerateConfig):
    """A judge as the backends are told of it."""

    section = JudgeConfig.section


def language_models(generation: GenerateConfig, judge: JudgeConfig) -> list[GenerateConfig]:
    """Return what a run asks: the generator, and a judge where there is one."""
    return [generation, *([as_generator(judge)] if judge.checkpoint else [])]


def as_generator(config: JudgeConfig) -> GenerateConfig:
    """Return what a backend of generation is told of the judge: one answer for each pair, the most probable one."""
    shared = {each.name: getattr(config, each.name) for each in dataclasses.fields(LanguageModelConfig)}
    return _Grading(
        **shared,
        backend=config.backend,
        prompt=config.prompt,
        max_document_tokens=QUERY_TOKENS + config.max_passage_tokens + _SEAM,
        max_new_tokens=config.max_new_tokens,
    )
