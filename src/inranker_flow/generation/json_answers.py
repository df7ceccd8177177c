"""The query in an answer that is JSON, or nearly."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_JSON_KEYS = (
    "query",
    "queries",
    "search_query",
    "question",
    "questions",
    "search",
    "text",
    "answer",
    "output",
    "response",
)

_KEY = re.compile(
    r"""["']?(?:search[_ ]?)?(?:quer(?:y|ies)|questions?)["']?\s*:\s*\[?\s*(["'])((?:\\.|(?!\1)[^\\])*)""",
    re.IGNORECASE | re.DOTALL,
)

#: A letter's code of which the end is missing.
_CUT_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")


def in_json(text: str) -> str | None:
    """Return the first query in an object or a list; "" for one without, and None where the text is neither."""
    try:
        held, end = json.JSONDecoder(strict=False).raw_decode(text)
    except (ValueError, RecursionError):
        held, end = _python(text), len(text)
        if held is None:  # cut, or with keys that are not quoted
            cut = _KEY.search(text) or re.match(r"\[\s*(\")((?:\\.|[^\"\\])+)(?:\"\s*,|\"?\Z)", text)
            return _unescaped(cut[2]).strip() if cut else None
    # '["a", "b"] in javascript' is a query.
    if text[end:].strip() and not text[end:].lstrip(" \t`").startswith("\n"):
        return None
    found = _first_text(held)
    if found is None:
        return "" if isinstance(held, dict) or not held else None
    return found.strip()


def _unescaped(text: str) -> str:
    """Return the text that stands between quotes of JSON, perhaps cut in the middle of a character."""
    try:
        found: str = json.loads(f'"{re.sub(_CUT_ESCAPE, "", text)}"', strict=False)
    except ValueError:  # Python's quotes
        return text.replace('\\"', '"').replace("\\n", " ")
    return found


def _python(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _first_text(held: Any) -> str | None:
    """Return the first text in nested data: by the names that a query has, else the only one that there is."""
    if isinstance(held, str):
        return held
    if isinstance(held, list | tuple):
        return next((found for each in held if (found := _first_text(each))), None)
    if not isinstance(held, dict):
        return None
    named = {str(key).lower(): value for key, value in held.items()}
    keys = [key for key in _JSON_KEYS if key in named]
    keys += [key for key in named if key not in keys and re.search("quer|question", key)]
    for key in keys:
        if found := _first_text(named[key]):
            return found
    nested = [found for value in named.values() if isinstance(value, dict) and (found := _first_text(value))]
    if len(nested) == 1 and not keys:  # the arguments of a call
        return nested[0]
    others = [found for key, value in named.items() if key not in keys and (found := _first_text(value))]
    return others[0] if len(others) == 1 and not keys else None
