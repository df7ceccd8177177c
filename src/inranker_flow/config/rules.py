"""Rules that a value keeps, as marks of a field's type: ranges, texts, and what changes no result."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from inranker_flow import words
from inranker_flow.errors import UserError


@dataclass(frozen=True)
class Range:
    """Values from ``least`` to ``most``, both included, or one of ``also``."""

    least: float
    most: float = math.inf
    also: tuple[float, ...] = ()

    def problem(self, value: float) -> str:
        """Return the fault of a value; "" if it has none."""
        if self.least <= value <= self.most or value in self.also:
            return ""
        return f"is below {self.least:g}" if value < self.least else f"is above {self.most:g}"


@dataclass(frozen=True)
class Above(Range):
    """As :class:`Range`, without ``least`` itself."""

    def problem(self, value: float) -> str:
        return f"must be above {self.least:g}" if value == self.least else super().problem(value)


@dataclass(frozen=True)
class Below(Range):
    """As :class:`Range`, without ``most`` itself."""

    def problem(self, value: float) -> str:
        return f"must be below {self.most:g}" if value == self.most else super().problem(value)


@dataclass(frozen=True)
class Text:
    """Words on one line, or (``lines``) a text. ``form``: a regular expression for the whole,
    which ``says`` describes. ``secret``: a wrong one may hold a key, and is not repeated. ``numbers``: YAML reads some as
    numbers."""

    form: str = ""
    says: str = ""
    empty: bool = True
    lines: bool = False
    most: int = 4096
    secret: bool = False
    numbers: bool = False

    def problem(self, value: str) -> str:
        """Return the fault of a value; "" if it has none."""
        if not value:
            return "" if self.empty else "is empty, and has no default"
        if len(value) > self.most:
            return f"{LONG}{len(value):,} characters; at most {self.most:,} can be right"
        if not self.lines and "://" in value and _CREDENTIALS.search(value):
            return NO_CREDENTIALS
        if not value.strip():
            return "holds nothing but blanks"
        if odd := (_NO_TEXT if self.lines else _NO_LINE).search(value):
            return f"holds the character {odd[0]!r}, which cannot stand there"
        return self.says if self.form and not re.fullmatch(self.form, value) else ""


@dataclass(frozen=True)
class LanguageName(Text):
    """The name of a language that `words.language` knows, or its code."""

    most: int = 100

    def problem(self, value: str) -> str:
        """Return the fault of a value; "" if it has none."""
        problem = super().problem(value)
        if problem or not value:
            return problem

        try:
            words.language(value)
        except UserError:
            return words.UNKNOWN
        return ""


class NoResult:
    """Marks a setting that changes no result, only how fast or in which parts it is computed: it is in no key of what was
    computed before (:func:`deciding`)."""


NO_RESULT = NoResult()

#: Characters that a text cannot hold, and those that one line cannot: controls, halves of a character, line ends.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_NO_LINE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
#: A user's name, and perhaps a password, before the host of an address; or a key in its query.
_CREDENTIALS = re.compile(r"(?i)[a-z][a-z0-9+.-]*://[^/?#\s]*@|https?://\S*[@?]")
LONG = "is a text of "
NO_CREDENTIALS = (
    "holds a user's name, a password or a query, which every run would record; leave it out of the address (keys are given "
    "in the environment: OPENAI_API_KEY, TEACHER_API_KEY, SEARCH_API_KEY, AWS_ACCESS_KEY_ID, HF_TOKEN)"
)
