"""Text from elsewhere in a Markdown page: names of corpora and files, queries, messages of servers."""

from __future__ import annotations

_MARKS = "\\|`*_[]~#"


def escape(text: str) -> str:
    """Return ``text`` in one line that neither ends a cell nor is taken for HTML or Markdown."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in _MARKS:
        text = text.replace(mark, f"\\{mark}")
    return text


def code(text: str) -> str:
    """Return ``text`` as it is, between marks that it does not hold itself."""
    plain = " ".join(text.split())
    fence = "`"
    while fence in plain:
        fence += "`"
    return f"{fence}{plain}{fence}" if len(fence) == 1 else f"{fence} {plain} {fence}"
