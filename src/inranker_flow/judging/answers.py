"""The grade in what a judge answered: a digit, a label with a digit, JSON, or prose that says it; or none at all."""

from __future__ import annotations

import re
from collections.abc import Iterator

from inranker_flow.generation import refusals
from inranker_flow.generation.thoughts import without_thoughts

LOWEST, HIGHEST = 0, 3

_NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3}
#: A number, and the scale that it is of, where that is said: `2`, `2/3`, `2 out of 3`.
_NUMBER = (
    r"(?P<number>-?\d+(?:[.,]\d+)?|zero\b|one\b|two\b|three\b)(?!\w)"
    r"(?:\s*(?:/|out of|of)\s*(?P<scale>\d+))?"
)
#: What may stand between a label and its number: quotes, emphasis, brackets, "is", "of", "=".
_BETWEEN = r"[\s\"'`*_#()\[\]{}<>$\\]*"
_IS = (
    rf"{_BETWEEN}(?:(?:[:=：\-–—]|->|→|is|was|would be|should be|of|as){_BETWEEN}){{0,2}}"
    rf"(?:boxed{_BETWEEN}|text{_BETWEEN}|a |an )?"
)
#: The final one goes before any other, and within a kind the last one counts.
_LABELLED = tuple(
    re.compile(rf"\b{label}{_IS}{_NUMBER}", re.IGNORECASE)
    for label in (
        r"(?:final|overall|total)[ _-]?(?:score|grade|rating|relevance(?:[ _-](?:score|grade))?|answer|label|judge?ment|verdict)",
        r"O(?=[\"'*]*\s?[:=])",
        r"(?:relevance[ _-])?(?:score|grade|rating|label|category|judge?ment|verdict)",
        r"(?:relevance|relevancy|answer|output|result)",
        r"boxed",
    )
)
#: "I would give this passage a 2", "I'd rate it 1", "deserves a 3".
_GIVEN = re.compile(
    r"\b(?:give|gave|giving|assign(?:ed)?|rate[ds]?|rating|grade[ds]?|scor(?:e|es|ed)|deserves?|gets?|earns?|receives?|merits?|"
    rf"choose|category|level)\b(?:\s+[^\W\d][\w'’-]*){{0,8}}?[\s\"'`*_(:=]*{_NUMBER}",
    re.IGNORECASE,
)
#: "(0-3)", "from 0 to 3", "between 0 and 3": the scale, and no grade.
_SCALE = re.compile(r"\b0\s*(?:-|–|—|to|and|through|\.\.\.?)\s*3\b", re.IGNORECASE)
#: "0, 1, 2 or 3" that a model says again.
_CHOICE = re.compile(r"\b0\s*,\s*1\s*,\s*2\s*,?\s*(?:or|and)?\s*3\b", re.IGNORECASE)
_BARE = re.compile(rf"\A(?:(?!-\d)[\W_])*{_NUMBER}[\W_]*\Z", re.IGNORECASE)
#: A grade alone on its line, or before its meaning: "2", "**2**", "2: holds some answer", "2 - Related".
_LINE = re.compile(rf"^[^\w\n-]*{_NUMBER}[^\S\n]*(?:$|[*_)\].:,–—-]+(?:[^\S\n]|$))", re.IGNORECASE | re.MULTILINE)

#: A judge's own refusals, beside those of a language model that writes queries.
_REFUSAL = re.compile(
    r"\A(?:(?:i['’]?m|i am) (?:sorry|unable|not able)\b|(?:i|we)(?: |(?=['’]))(?:can ?not|can['’]t|won['’]t|will not|decline)\b"
    r".{0,30}\b(?:grade|rate|score|judge|assess|evaluate|provide|give|assign)\b)",
    re.IGNORECASE,
)


def grade_in(answer: str) -> int | None:
    """Return the grade that an answer ends with; None where it holds none, or one of another scale."""
    text = _CHOICE.sub(" ", _SCALE.sub(" ", without_thoughts(answer))).strip()
    if bare := _BARE.match(text):
        return _grade(bare)
    for pattern in _LABELLED:
        if found := list(pattern.finditer(text)):
            return _grade(found[-1])
    given = [grade for found in _GIVEN.finditer(text) if (grade := _grade(found)) is not None]
    if given:
        return given[-1]
    lines = set(_on_lines(text))
    return lines.pop() if len(lines) == 1 else None


def refuses(answer: str) -> bool:
    """Return whether an answer without a grade says that there will be none."""
    lines = (line.strip() for line in without_thoughts(answer).split("\n"))
    line = next(filter(None, lines), "")
    return bool(_REFUSAL.match(line)) or refusals.refuses(line)


def _on_lines(text: str) -> Iterator[int]:
    """Yield the grades that stand at the beginning of a line; a list has several."""
    for found in _LINE.finditer(text):
        grade = _grade(found)
        if grade is not None:
            yield grade


def _grade(found: re.Match[str]) -> int | None:
    number, scale = found["number"].lower(), found["scale"]
    if scale not in (None, str(HIGHEST)):
        return None
    if number in _NUMBERS:
        return _NUMBERS[number]
    value = float(number.replace(",", "."))
    return int(value) if value in range(LOWEST, HIGHEST + 1) else None
