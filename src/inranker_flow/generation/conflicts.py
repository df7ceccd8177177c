"""Settings of a generation that cannot work, or not together: refused where a profile is read, and by the stage."""

from __future__ import annotations

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.errors import UserError


def check(config: GenerateConfig) -> None:
    """Raise :class:`UserError` for the first of them. Nothing outside of ``config`` is looked at."""
    _numbers(config)
    if config.backend == "crop":
        _crop(config)
        return
    if not config.checkpoint:
        raise UserError(
            f"{config.section}.checkpoint: missing; give the language model that writes the queries, or take sentences of the "
            'documents for them: SET="generation.backend=crop"',
            code="setting-missing",
        )
    if config.queries_per_document > 1 and not config.temperature:
        raise UserError(
            f"generation.temperature: 0 writes the same query each time, but queries_per_document is "
            f"{config.queries_per_document}; set a temperature such as 0.7",
            code="setting-conflict",
        )
    if config.request_fields and config.backend != "openai":
        raise UserError(
            f"{config.section}.request_fields: are for the backend openai, and this is {config.backend}; leave them out",
            code="setting-conflict",
        )
    if config.backend == "openai" and not config.endpoint:
        raise UserError(
            f"{config.section}.endpoint: missing; the backend openai asks the server at http://HOST:PORT/v1",
            code="setting-missing",
        )


def _numbers(config: GenerateConfig) -> None:
    for name in ("documents", "queries_per_document", "max_document_tokens", "max_new_tokens", "batch_size"):
        if getattr(config, name) < 1:
            raise UserError(f"generation.{name}: {getattr(config, name)} must be 1 or more", code="setting-value")
    if config.temperature < 0 or not 0 < config.top_p <= 1:
        raise UserError(
            "generation: temperature must be 0 or more, and top_p above 0 and at most 1", code="setting-value"
        )
    for least, most in (("min_document_words", "max_document_words"), ("min_query_words", "max_query_words")):
        if 0 < getattr(config, most) < getattr(config, least):
            raise UserError(
                f"generation.{most}: {getattr(config, most)} is below generation.{least} ({getattr(config, least)}), so none "
                "would be left; lower one or raise the other",
                code="setting-conflict",
            )


def _crop(config: GenerateConfig) -> None:
    if config.drop_copied:
        raise UserError(
            "generation.drop_copied: true drops every query of the backend crop, which copies them from documents; set it to "
            "false",
            code="setting-conflict",
        )
    if config.keep_probable:
        raise UserError(
            f"generation.keep_probable: {config.keep_probable}, but the backend crop has no probabilities; set it to 0, or let "
            "the teacher choose (teacher.keep_queries)",
            code="setting-conflict",
        )
