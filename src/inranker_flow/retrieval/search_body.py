"""The template of a search in an index."""

from __future__ import annotations

import json
from typing import Any

from inranker_flow import text_files
from inranker_flow.config.retrieval import SearchServerConfig
from inranker_flow.errors import UserError

_PLACE = "{query}"


def read_body(config: SearchServerConfig) -> str:
    """Return the template of a search, which a setting may name the file of. Raises :class:`UserError` where it is none."""
    setting = "retrieval.server.body"
    text = config.body
    if not text.lstrip().startswith("{"):
        try:
            text = text_files.read(text, setting)
        except FileNotFoundError as error:
            raise UserError(f"{error}: no such file; give one, or the JSON itself", code="not-found") from error
    try:
        body = json.loads(text)
    except ValueError as error:
        raise UserError(f"{setting}: is no JSON ({str(error)[:100]})", code="search-body") from error
    if not isinstance(body, dict) or filled(body, "a") == filled(body, "b"):
        raise UserError(
            f'{setting}: is no JSON object with "{_PLACE}" where the query\'s text belongs', code="search-body"
        )
    return text


def filled(template: Any, query: str) -> Any:
    """Return a template with the query's text in it."""
    if isinstance(template, dict):
        return {key: filled(value, query) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, query) for value in template]
    return template.replace(_PLACE, query) if isinstance(template, str) else template
