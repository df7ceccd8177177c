"""Whether what is to write the queries, and what is to judge, is there: a checkpoint, or a server that serves it."""

from __future__ import annotations

import dataclasses

from inranker_flow.config.language_model import JudgeConfig
from inranker_flow.config.sections import GenerateConfig
from inranker_flow.generation import conflicts, prompts
from inranker_flow.generation.backends import check_here
from inranker_flow.generation.backends.served import connect, describe
from inranker_flow.judging import prompts as judging_prompts
from inranker_flow.judging.model import as_generator
from inranker_flow.preflight.checkpoints import check_writer

#: Seconds for an answer: this is no time to wait for a server that is just starting.
_TIMEOUT = 10.0


def check_generator(config: GenerateConfig) -> str:
    """Find the checkpoint (see :func:`check_writer`), or ask the server for it; the prompt is read either way.

    Cropped queries need neither.
    """
    if config.backend == "crop":
        return "no model: a query is a part of its document"
    prompts.load(config.prompt)
    return _found(config)


def check_judge(config: JudgeConfig) -> str:
    """The same for a judge: what it lacks should show before anything is trained."""
    judging_prompts.load(config.prompt)
    model = as_generator(config)
    if config.backend == "vllm":
        check_here(model)  # no image of `evaluate` has it
    return _found(model)


def _found(config: GenerateConfig) -> str:
    conflicts.check(config)
    if config.backend != "openai":
        return check_writer(config.checkpoint, config.revision, config.section)
    endpoint = connect(dataclasses.replace(config, retries=1, request_timeout=_TIMEOUT))
    describe(endpoint, config.checkpoint)
    return f"{config.checkpoint} is served at {endpoint.url}"
