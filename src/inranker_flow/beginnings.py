"""Long texts are cut before they are tokenised: what a prompt cannot hold costs neither memory nor time.

The first token ids stay exactly those of the whole text. A text is cut only where that is certain:

- Tokenizers split a text into words first, and words are tokenised by themselves. Where the beginning of a text holds enough
  words, what follows its last two changes nothing before them.
- Tokenizers without such a split, whose vocabulary has no piece that goes on over a blank, are as certain before a blank.
- In a text without blanks (Chinese) the ids of a beginning are those of the whole wherever a piece of the whole ends there:
  that holds for the best path of a unigram model and for byte-pair merges. A piece ends at one of any K places in a
  row, K the longest piece's length. So where the beginnings that end at K places all begin alike, the whole does too.

Anything else is tokenised as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any

#: Characters of a token that a beginning is tried with, and from which on a text is worth being cut.
_TRIED, _WORTH = 8, 16
#: Longest pieces that the K places are tried for, and how often a longer beginning without blanks is.
_LONGEST_PIECE, _TRIES = 64, 2
#: Tokens that a neighbour in front of the text may change.
_SPARE = 8
#: Characters of the texts that are token lists (Python objects) at a time.
CHARACTERS = 500_000


class Beginnings:
    """Cuts texts to what their first ``most`` ids need, where ``before`` stands in front of them."""

    def __init__(self, tokenizer: Any, most: int, before: str = "") -> None:
        self._tokenizer, self._before = tokenizer, before
        self._most = most + _SPARE
        if before:
            self._most += len(self._encode(before).ids) if self._fast else 0

    def of(self, texts: Iterable[str]) -> Iterator[str]:
        """Return each of ``texts``, cut."""
        return map(self.cut, texts)

    def cut(self, text: str) -> str:
        """Return ``text``, or its beginning, whose first ids are the same."""
        if len(text) <= self._most * _WORTH or not self._fast:
            return text
        width = self._most * _TRIED
        for tries in range(len(text)):
            if 2 * width >= len(text):
                break
            found = self._encode(self._before + text[:width])
            if max(self._by_words(found), self._by_blanks(found, text[:width])) >= self._most:
                return text[:width]
            if tries < _TRIES and self._longest * width < len(text) and self._by_places(text, width):
                return text[:width]
            width *= 2
        return text

    @property
    def _fast(self) -> bool:
        return bool(getattr(self._tokenizer, "is_fast", False))

    def _encode(self, text: str) -> Any:
        return self._tokenizer([text], add_special_tokens=False, truncation=False, verbose=False).encodings[0]

    @staticmethod
    def _by_words(found: Any) -> int:
        """Return tokens before the last two words."""
        words = found.word_ids
        changes = 0
        for place in range(len(words) - 1, 0, -1):
            changes += words[place] != words[place - 1]
            if changes == 2:
                return place
        return 0

    def _by_blanks(self, found: Any, text: str) -> int:
        """Return tokens before the last blank that follows a word."""
        if not self._hard_blanks:
            return 0
        end = len(text.rstrip(" "))
        blank = text.rfind(" ", 0, end)
        while blank > 0 and text[blank - 1].isspace():
            blank = text.rfind(" ", 0, blank)
        if blank <= 0:
            return 0
        edge = len(self._before) + blank
        return sum(stop <= edge for _, stop in found.offsets)

    def _by_places(self, text: str, width: int) -> bool:
        """Return whether the beginnings that end at any of so many places as the longest piece has characters begin alike."""
        if not self._pieces_end or self._longest > _LONGEST_PIECE or not self._hard_blanks:
            return False
        tail = text[width - self._longest : width]
        if any(each.isspace() for each in tail) or not self._one_to_one(tail):
            return False
        # A piece of bytes may end inside of a character that has several.
        if self._model["bytes"] and not (tail.isascii() and tail.isalpha()):
            return False
        cuts = [self._before + text[: width - less] for less in range(self._longest)]
        ids = self._tokenizer(cuts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        first = ids[0][: self._most]
        return len(first) == self._most and all(each[: self._most] == first for each in ids)

    def _one_to_one(self, text: str) -> bool:
        """Return whether each character stays one character when the tokenizer normalises it."""
        normalizer = self._tokenizer.backend_tokenizer.normalizer
        if normalizer is None:
            return True
        # A letter in front, because some normalizers put a blank before a text or strip its ends.
        alone = len(normalizer.normalize_str("a"))
        return len(normalizer.normalize_str(f"a{text}")) == alone + len(text) and all(
            len(normalizer.normalize_str(f"a{each}")) == alone + 1 for each in text
        )

    @cached_property
    def _model(self) -> dict[str, Any]:
        """The tokenizer's own description, without its vocabulary."""
        found: dict[str, Any] = json.loads(self._tokenizer.backend_tokenizer.to_str())
        return {
            "type": found["model"].get("type"),
            "bytes": "ByteLevel" in json.dumps([found["pre_tokenizer"], found["normalizer"]]),
            "marked": bool(found["model"].get("end_of_word_suffix") or found["model"].get("continuing_subword_prefix")),
        }

    @cached_property
    def _pieces(self) -> list[str]:
        added = self._tokenizer.get_added_vocab()
        return [each for each in self._tokenizer.get_vocab() if each not in added]

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._pieces), default=1)

    @cached_property
    def _pieces_end(self) -> bool:
        """Whether the pieces of a beginning that ends where a piece does are the whole's."""
        return self._model["type"] in ("Unigram", "BPE") and not self._model["marked"]

    @cached_property
    def _hard_blanks(self) -> bool:
        """Whether no piece goes on from a word over a blank."""
        if self._model["type"] not in ("Unigram", "BPE"):
            return False
        blanks = "▁Ġ "
        return not any(
            after in blanks and before not in blanks for piece in self._pieces for before, after in pairwise(piece)
        )


def chunks(texts: Iterable[Any], count: int, characters: int = CHARACTERS) -> Iterator[list[Any]]:
    """Yield lists of at most ``count`` texts (or tuples of texts), and of about ``characters`` at most."""
    chunk: list[Any] = []
    held = 0
    for text in texts:
        size = len(text) if isinstance(text, str) else sum(map(len, text))
        if chunk and (len(chunk) == count or held + size > characters):
            yield chunk
            chunk, held = [], 0
        chunk.append(text)
        held += size
    if chunk:
        yield chunk
