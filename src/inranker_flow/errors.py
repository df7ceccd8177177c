"""What a person can mend: bad input, and a server that does not do its part."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, configuration or environment.

    The message is one line that says which file (and row), what is wrong and what to do. Command lines and stages
    print it without a traceback and exit non-zero.
    """


class NoAnswer(UserError):
    """A server did not answer, or refused: it says nothing about the thing that was asked for."""
