"""Documents cut into passages: at their headings, and a long section between its sentences.

Tokens are words as `words.count` counts them, so that a collection is cut alike whatever model reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from inranker_flow import words
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.corpora.problems import Rows
from inranker_flow.corpora.sentences import sentences
from inranker_flow.errors import UserError

#: Tokens of a passage of a file of text, where the setting says nothing: with a query and a title it fits into 512 pieces.
USUAL = 250
#: Between the headings above a passage.
_ARROW = " > "
#: Words of headings without text at most that stand in the path of the text that follows them.
_HEADINGS = 16


@dataclass(frozen=True)
class Section:
    """A part of a document below its headings (``path``); lines of ``text`` belong together: paragraphs, items, rows."""

    path: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Size:
    """How long passages are, in tokens."""

    tokens: int
    overlap: int = 0

    @classmethod
    def of(cls, corpus: CorpusConfig, usual: int = 0) -> Size:
        """Return what the settings of a collection say; ``usual`` tokens where they say nothing."""
        return cls(corpus.passage_tokens or usual, corpus.passage_overlap)


def check(corpus: CorpusConfig) -> None:
    """Refuse an overlap that leaves no room for anything new."""
    tokens = corpus.passage_tokens or USUAL
    if corpus.passage_overlap >= tokens:
        raise UserError(
            f"{corpus.name}: passage_overlap ({corpus.passage_overlap}) must be less than passage_tokens ({tokens})",
            code="setting-conflict",
        )


def cut(sections: Iterable[Section], size: Size) -> Iterator[tuple[str, str]]:
    """Yield the title path and the text of each passage.

    A heading without text is in the paths below it. One with nothing below it is in the path of the text that follows, or a
    passage by itself: where nothing follows, where too many such headings stand together, and in a document of nothing else.
    """
    found = list(sections)
    for section in _with_headings(found) or found[:1]:
        title = _ARROW.join(filter(None, section.path))
        for text in _parts(section.text.strip(), size):
            yield title, text


def _with_headings(found: Sequence[Section]) -> list[Section]:
    """Return the sections with text, and the headings that have neither text nor anything below them."""
    bare = set(map(id, _last(found[1:])))  # the first section has no heading of its own
    kept: list[Section] = []
    lost: list[Section] = []
    for section in found:
        if not section.text.strip():
            lost += [section] if id(section) in bare else []
            continue
        names = [name for each in lost for name in each.path if name not in section.path]
        names = [name for name in dict.fromkeys(names) if not any(name in each.path for each in kept[-1:])]
        if sum(map(words.count, names)) > _HEADINGS:
            kept += lost
            names = []
        kept.append(Section((*section.path[:-1], *names, *section.path[-1:]), section.text))
        lost = []
    return kept + lost


def _last(sections: Sequence[Section]) -> list[Section]:
    """Return the sections below which there are no others."""
    paths = [each.path for each in sections[1:]] + [()]
    return [each for each, then in zip(sections, paths, strict=False) if then[: len(each.path)] != each.path]


def as_passages(rows: Rows, corpus: CorpusConfig) -> Rows:
    """Return documents (columns doc_id, title, text) as passages, with their document's id as a fourth column, if the
    settings of the collection ask for that; what is passages already stays as it is."""
    size = Size.of(corpus)
    if not size.tokens or len(rows.columns) > 3:
        return rows
    lines: list[int] = []
    columns: tuple[list[str], ...] = ([], [], [], [])
    for line, document, title, text in zip(rows.lines, *rows.columns, strict=True):
        for number, (_, part) in enumerate(cut([Section((title,), text)], size), 1):
            lines.append(line)
            for column, value in zip(columns, (f"{document}#{number}", title, part, document), strict=True):
                column.append(value)
    return Rows(rows.file, lines, columns, rows.amount)


def _parts(text: str, size: Size) -> Iterator[str]:
    """Yield parts of a section of at most ``size.tokens``, each of whole sentences where these are not longer themselves."""
    if words.count(text) <= size.tokens:
        yield text
        return
    held: list[_Piece] = []
    length = 0
    for piece in _pieces(text, size):
        if held and length + piece.tokens > size.tokens:
            yield _joined(held)
            held = _tail(held, min(size.overlap, size.tokens - piece.tokens))
            length = sum(each.tokens for each in held)
        held.append(piece)
        length += piece.tokens
    if held:
        yield _joined(held)


@dataclass(frozen=True)
class _Piece:
    """A sentence, or a part of a long one; ``before``: what stands between it and the one before."""

    text: str
    tokens: int
    before: str


def _pieces(text: str, size: Size) -> Iterator[_Piece]:
    # A long sentence is cut so that an overlap can be some of its parts.
    most, step = size.tokens, min(size.overlap, size.tokens - size.overlap) or size.tokens
    for line in text.split("\n"):
        before = "\n"
        for sentence in [line] if words.count(line) <= most else sentences(line):
            tokens = words.count(sentence)
            if not sentence.strip():
                continue
            if tokens <= most:
                yield _Piece(sentence.rstrip(), tokens, before)
            else:
                parts, between = words.split(sentence)
                for start in range(0, len(parts), step):
                    part = parts[start : start + step]
                    yield _Piece(between.join(part).strip(), len(part), before if not start else between)
            before = " " if words.has_blanks(sentence) else ""


def _tail(pieces: Sequence[_Piece], most: int) -> list[_Piece]:
    """Return the last pieces that have at most so many tokens together, but not all: the next passage must get further."""
    kept: list[_Piece] = []
    for piece in reversed(pieces[1:]):
        if sum(each.tokens for each in kept) + piece.tokens > most:
            break
        kept.insert(0, piece)
    return kept


def _joined(pieces: Sequence[_Piece]) -> str:
    return "".join([pieces[0].text, *(f"{each.before}{each.text}" for each in pieces[1:])])
