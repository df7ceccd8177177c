"""Rows on their way from a source into the batches that it yields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

#: Rows in one batch: what is held as Python objects at a time.
ROWS = 16_384

Split = Literal["train", "test"]
Row = tuple[Any, ...]


def as_columns(rows: Sequence[Row], width: int) -> tuple[list[Any], ...]:
    """Return the ``width`` columns of ``rows``, of which there may be none."""
    return tuple(map(list, zip(*rows, strict=True))) if rows else tuple([] for _ in range(width))
