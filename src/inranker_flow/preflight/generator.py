"""Whether what is to write the queries is there: a checkpoint, or a server that serves it."""

from __future__ import annotations

import dataclasses

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.errors import UserError
from inranker_flow.generation import prompts
from inranker_flow.generation.backends.served import connect, describe
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
    if config.backend != "openai":
        return check_writer(config.checkpoint, config.revision)
    if not config.endpoint:
        raise UserError(
            "generation.endpoint: missing; the backend openai asks the server at http://HOST:PORT/v1",
            code="setting-missing",
        )
    endpoint = connect(dataclasses.replace(config, retries=1, request_timeout=_TIMEOUT))
    describe(endpoint, config.checkpoint)
    return f"{config.checkpoint} is served at {endpoint.url}"
