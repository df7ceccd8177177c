"""The one place where a title and a text become the passage that models and BM25 see."""

from __future__ import annotations


def default_text(title: str, text: str) -> str:
    """Return the title and text joined by one space, as ir_datasets does; without the space where one of them is empty."""
    return f"{title} {text}".strip()
