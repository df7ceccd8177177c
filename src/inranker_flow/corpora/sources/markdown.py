"""Sections of a Markdown file: front matter, headings and fences are understood; all other marks stay as text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from inranker_flow.corpora.passages import Section

#: Between two rules at the beginning of the file, lines of YAML or TOML.
_FRONT = re.compile(
    r"\A(---|\+\+\+)[ \t]*\n(?=\s*[\w\"'-]+[ \t]*[:=]|\1)(.*?)^(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE
)
_TITLE = re.compile(r"^title[ \t]*[:=](.*)$", re.MULTILINE | re.IGNORECASE)
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[^`]*$")
_ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
#: A line that begins something: an item, a quotation, a row of a table, a rule, code by its indentation.
_BEGINS = re.compile(r"[ \t]*(?:[-*+][ \t]|\d{1,9}[.)][ \t]|>|\||(?:[-*_][ \t]*){3,}$)| {4}|\t")
#: Characters of the line that a table has between its header and its rows.
_RULE = " \t|:-"
#: An attribute that some dialects put after a heading.
_ATTRIBUTE = re.compile(r"[ \t]*\{[#.:][^{}]*\}$")


class Outline:
    """Headings of a document as they are met, and the path of the text below the last one."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._open: list[tuple[int, str]] = []

    def heading(self, level: int, text: str) -> None:
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, text))

    @property
    def path(self) -> tuple[str, ...]:
        """The headings above; the document's title before them where none is of the first level."""
        found = [text for _, text in self._open if text]
        whole = bool(self._open) and (self._open[0][0] == 1 or found[:1] == [self._root])
        return tuple(found if whole else [self._root, *found])


def sections(text: str, name: str) -> Iterator[Section]:
    """Yield the sections of a file; ``name`` is its title where it says none."""
    title = name
    if front := _FRONT.match(text):
        if said := _TITLE.search(front[2]):
            title = said[1].strip().strip("\"'") or name
        text = text[front.end() :]
    outline = Outline(title)
    lines: list[str] = []
    fence = ""
    goes_on = False
    for line in text.split("\n"):
        if fence:
            if re.fullmatch(rf"[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*", line):
                fence = ""
            else:
                lines.append(line.rstrip())
            continue
        if found := _FENCE.match(line):
            fence, goes_on = found[1], False
            continue
        level, heading = _heading(line, lines if goes_on else [])
        if level:
            if heading is None:
                heading = lines.pop()
            yield Section(outline.path, _text(lines))
            outline.heading(level, _ATTRIBUTE.sub("", " ".join(heading.split())))
            lines, goes_on = [], False
        elif not line.strip() or (lines and not line.strip(_RULE)):
            goes_on = False
        elif goes_on and not _BEGINS.match(line):
            lines[-1] = f"{lines[-1]} {line.strip()}"
        else:
            lines.append(line.rstrip())
            goes_on = not line.lstrip().startswith("|")
    yield Section(outline.path, _text(lines))


def _heading(line: str, above: list[str]) -> tuple[int, str | None]:
    """Return level and text of a heading; None for the text where it is the paragraph ``above``; level 0 for any other line."""
    if found := _ATX.match(line):
        text = line[found.end() :].strip()
        opened = text.rstrip("#")  # "## Title ##" is closed, "C#" is not
        return len(found[1]), opened if not opened or opened[-1].isspace() else text
    if above and (found := _SETEXT.match(line)) and not _BEGINS.match(above[-1]):
        return (1 if found[1][0] == "=" else 2), None
    return 0, None


def _text(lines: list[str]) -> str:
    return "\n".join(line for line in lines if line.strip())
