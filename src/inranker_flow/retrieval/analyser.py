"""Text to term numbers: lower case, words of two or more characters, stop words, Snowball stemmer; what bm25s does.

It differs from bm25s' own tokenizer in two things. A word that is stemmed to nothing is no term ("s" becomes "" in some
languages, and bm25s then reads beyond its index). And the terms of a batch are one flat array: a list of Python lists
takes eight times the memory.
"""

from __future__ import annotations

import logging
import re
from array import array
from collections.abc import Callable, Iterable

import numpy as np

from inranker_flow.config import RetrieveConfig
from inranker_flow.errors import UserError

_WORDS = re.compile(r"(?u)\b\w\w+\b").findall
#: What a word becomes that is no term.
_NO_TERM = -1


class Analyser:
    """Numbers the terms in the order in which they first occur, until it is frozen."""

    def __init__(self, config: RetrieveConfig, terms: Iterable[str] | None = None) -> None:
        """With ``terms`` of an index, in order: words beyond them are no terms.

        Raises :class:`UserError` for stop words or a stemmer that do not exist.
        """
        stopwords, stem = stop_list(config), _stemmer(config)
        self._words = _Words(stopwords, stem, {term: number for number, term in enumerate(terms or ())})
        self._words.frozen = terms is not None

    @property
    def terms(self) -> list[str]:
        """The terms in the order of their numbers."""
        return list(self._words.terms)

    def freeze(self) -> None:
        """From now on words that are not known are no terms."""
        self._words.frozen = True

    def __call__(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Term numbers of all texts one after another (int32), and how many each text has (int64)."""
        flat, ends = array("i"), array("q", [0])
        number = self._words.__getitem__
        for text in texts:
            flat.extend(map(number, _WORDS(text.lower())))
            ends.append(len(flat))
        numbers = np.frombuffer(flat, np.int32) if flat else np.empty(0, np.int32)
        kept = numbers != _NO_TERM
        before = np.zeros(len(numbers) + 1, np.int64)
        np.cumsum(kept, out=before[1:])
        return numbers[kept], np.diff(before[np.frombuffer(ends, np.int64)])


class _Words(dict[str, int]):
    """Word -> term number; each word is stemmed once."""

    def __init__(self, stopwords: frozenset[str], stem: Callable[[str], str] | None, terms: dict[str, int]) -> None:
        super().__init__()
        self.stopwords, self.stem, self.terms, self.frozen = stopwords, stem, terms, False

    def __missing__(self, word: str) -> int:
        number = _NO_TERM
        if word not in self.stopwords and (term := self.stem(word) if self.stem else word):
            number = self.terms.get(term, _NO_TERM) if self.frozen else self.terms.setdefault(term, len(self.terms))
        self[word] = number
        return number


def stop_list(config: RetrieveConfig) -> frozenset[str]:
    """The words that ``config.stopwords`` names; :class:`UserError` where bm25s has no such list."""
    # It logs at a level of its own.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    from bm25s.tokenization import Tokenizer

    try:
        return frozenset(Tokenizer(stopwords=config.stopwords or None).stopwords)
    except ValueError as error:
        raise UserError(
            f"stopwords: bm25s has no list {config.stopwords!r}; english, german, ... or empty for none"
        ) from error


def _stemmer(config: RetrieveConfig) -> Callable[[str], str] | None:
    import Stemmer

    if not config.stemmer:
        return None
    try:
        stem: Callable[[str], str] = Stemmer.Stemmer(config.stemmer).stemWord
    except KeyError as error:
        known = ", ".join(Stemmer.algorithms())
        raise UserError(f"stemmer: {config.stemmer!r} is not one of {known} (empty for none)") from error
    return stem


def check(config: RetrieveConfig) -> None:
    """Raise :class:`UserError` for stop words or a stemmer that do not exist; a configuration is checked where it is read."""
    # bm25s costs a second, and its defaults are there.
    if config.stopwords not in ("", RetrieveConfig.stopwords):
        stop_list(config)
    _stemmer(config)
