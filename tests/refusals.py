"""What a refusal is asked for in tests: its code, and the facts that its line must name. Its wording may change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from inranker_flow.errors import UserError


@contextmanager
def refuses(code: str, *facts: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expect a :class:`UserError` with ``code`` in the block, of one line that names ``facts``: a file, a row, a setting."""
    with pytest.raises(UserError) as caught:
        yield caught
    said = str(caught.value)
    assert caught.value.code == code, f"{caught.value.code}: {said}"
    assert "\n" not in said
    for fact in facts:
        assert fact in said, said
