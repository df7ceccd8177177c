"""Text to term numbers: words (`inranker_flow.words`), stop words, Snowball stemmer; for plain ASCII what bm25s does.

It differs from bm25s' own tokenizer in three things. A word that is stemmed to nothing is no term ("s" becomes "" in some
languages, and bm25s then reads beyond its index). The terms of a batch are one flat array: a list of Python lists takes
eight times the memory. And words are those of all scripts.

The settings name one stemmer and one list of stop words. They are for the words of their own script, and for Latin ones. A
word of another script has the stemmer of the language that the script is mostly written for: Russian for Cyrillic, Hindi
for Devanagari, Arabic, Greek, Armenian, Tamil; none where its letters are not that language's (Persian, Ukrainian, ...).
A collection that says its language (`CorpusConfig.language`) has that language's settings instead: :func:`in_language`.
"""

from __future__ import annotations

import dataclasses
import logging
import unicodedata
from array import array
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np

from inranker_flow import words
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.errors import UserError

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
        """Return term numbers of all texts one after another (int32), and how many each text has (int64)."""
        flat, ends = array("i"), array("q", [0])
        number = self._words.__getitem__
        for text in texts:
            flat.extend(map(number, words.terms(text)))
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


def in_language(config: RetrieveConfig, language: str) -> RetrieveConfig:
    """Return the settings with the stemmer and the stop words of a collection's ``language``; as they are for "".

    Raises :class:`UserError` for a language that is not known.
    """
    if not language:
        return config
    known = words.language(language)
    return dataclasses.replace(config, stemmer=known.stemmer, stopwords=known.stopwords)


def stop_list(config: RetrieveConfig) -> frozenset[str]:
    """Return the words that ``config.stopwords`` names, and Russian's where Russian stems are made by the way.

    :class:`UserError` where bm25s has no such list.
    """
    if not config.stopwords:
        return frozenset()
    try:
        named = _list_of(config.stopwords)
    except ValueError as error:
        raise UserError(
            f"stopwords: bm25s has no list {config.stopwords!r}; english, german, ... or empty for none",
            code="setting-value",
        ) from error
    if words.is_written_in("я", config.stemmer) or not config.stemmer:
        return named
    return named | _list_of(words.usual_language("я"))


@cache
def _list_of(name: str) -> frozenset[str]:
    # It logs at a level of its own.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    from bm25s.tokenization import Tokenizer

    return frozenset(unicodedata.normalize("NFKC", word) for word in Tokenizer(stopwords=name).stopwords)


def _stemmer(config: RetrieveConfig) -> Callable[[str], str] | None:
    """Return a function that stems a word by its script."""
    import Stemmer

    if not config.stemmer:
        return None
    try:
        own: Callable[[str], str] = Stemmer.Stemmer(config.stemmer).stemWord
    except KeyError as error:
        known = ", ".join(Stemmer.algorithms())
        raise UserError(
            f"stemmer: {config.stemmer!r} is not one of {known} (empty for none)", code="setting-value"
        ) from error
    others: dict[str, Callable[[str], str]] = {}

    def stem(word: str) -> str:
        if word.isascii() or words.is_written_in(word, config.stemmer):
            return own(word)
        usual = words.usual_language(word)
        if not usual:
            return word
        if usual not in others:
            others[usual] = Stemmer.Stemmer(usual).stemWord
        return others[usual](word)

    return stem


def check(config: RetrieveConfig) -> None:
    """Raise :class:`UserError` for stop words or a stemmer that do not exist; a configuration is checked where it is read."""
    # bm25s costs a second, and its defaults are there.
    if config.stopwords not in ("", RetrieveConfig.stopwords):
        stop_list(config)
    _stemmer(config)
