"""The one exception that a person caused and can mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, configuration or environment.

    The message is one line that says which file (and row), what is wrong and what to do. Command lines and stages
    print it without a traceback and exit non-zero.
    """
