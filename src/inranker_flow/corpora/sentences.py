"""Sentences of a text in any script, by their marks alone: no model, no list of a language's words but abbreviations."""

from __future__ import annotations

import re
from itertools import pairwise

from inranker_flow.words import count, has_blanks

#: Ends a sentence where it stands: Chinese, Japanese, Devanagari, Arabic, Urdu, Armenian, Ethiopic, Burmese, Khmer.
_OWN = "。！？｡।॥؟۔։።။។៕"
#: Ends one if a blank follows.
_LATIN = ".!?…"
_END = re.compile(rf"(?:[{_OWN}]+|[{_LATIN}]+(?=[\"'”’»)\]]*\s))[\"'”’»」』）)\]]*\s*")
#: A letter alone, or letters with points between them ("J.", "e.g.", "U.S."), and words that are seldom the last.
_SHORTENED = re.compile(
    r"(?:^|[\s(\[\"'])(?:\w|(?:\w\.)+\w|dr|mr|mrs|ms|prof|st|vs|etc|al|fig|figs|no|nos|vol|pp|inc|ltd|jr|sr|approx|ca|cf|jan|"
    r"feb|mar|apr|aug|sept?|oct|nov|dec)\.\s*$",
    re.IGNORECASE,
)
#: Characters before a point that say whether it shortens a word.
_LOOK_BACK = 24
#: Fewer words are no sentence of their own: a heading's number, a name.
_LEAST = 3


def sentences(text: str) -> list[str]:
    """Return the sentences of a text in their order; what is too short for one belongs to the next, or to the last.

    In Thai and its like, which have no marks, a blank between two words ends one.
    """
    cased = text != text.lower()
    cuts = [0]
    for found in _END.finditer(text):
        if not _goes_on(text, found, cased):
            cuts.append(found.end())
    if not has_blanks(text):
        cuts += [blank.end() for blank in re.finditer(r"\s+", text) if _between_words(text, blank)]
    parts = [text[first:last].strip() for first, last in pairwise([*sorted(set(cuts)), len(text)])]
    return _joined([part for part in parts if part], " " if has_blanks(text) else "")


def _goes_on(text: str, end: re.Match[str], cased: bool) -> bool:
    """Return whether the sentence goes on after a point: it shortens a word, or a small letter follows in a text that has
    others."""
    if end[0].strip("\"'”’»)] ") != ".":
        return False
    following = text[end.end() : end.end() + 1]
    return (cased and following.islower()) or bool(_SHORTENED.search(text, max(end.end() - _LOOK_BACK, 0), end.end()))


def _between_words(text: str, blank: re.Match[str]) -> bool:
    """Return whether letters of scripts without blanks stand on both sides of one."""
    before, after = text[max(blank.start() - 1, 0) : blank.start()], text[blank.end() : blank.end() + 1]
    return bool(before and after) and not has_blanks(before) and not has_blanks(after)


def _joined(parts: list[str], between: str) -> list[str]:
    whole: list[str] = []
    held = ""
    for part in parts:
        held = f"{held}{between}{part}" if held else part
        if count(held) >= _LEAST:
            whole.append(held)
            held = ""
    if held and whole:
        whole[-1] = f"{whole[-1]}{between}{held}"
    return whole or ([held] if held else [])
