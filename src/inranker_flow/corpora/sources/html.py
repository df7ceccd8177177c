"""Sections of an HTML page: its text by headings, without scripts, styles and what helps to get about."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from inranker_flow.corpora.passages import Section
from inranker_flow.corpora.sources.markdown import Outline

_SKIPPED = {"script", "style", "noscript", "template", "svg", "nav", "footer", "iframe", "select", "button"}
#: Elements that begin a line, and end it.
_BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "form", "header", "hr", "li", "main", "ol", "p", "pre", "section", "summary", "table", "tbody", "thead", "tr", "ul",
}  # fmt: skip
_CELLS = {"td", "th"}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
#: Where a page says its encoding; browsers look no further than this many bytes.
_CHARSET = re.compile(
    rb"""<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE
)
_CHARSET_BYTES = 1024
#: What is called so on the web is the larger of the two.
_WINDOWS = {"iso-8859-1", "latin1", "ascii", "us-ascii"}
_BLANKS = re.compile(r"\s+")


class _Page(HTMLParser):
    """Gathers lines of text; HTML that is broken is read as far as it goes."""

    def __init__(self, name: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[int, str, list[str]]] = []  # level, heading, lines below it
        self.title = ""
        self._name = name
        self._lines: list[str] = []
        self._line: list[str] = []
        self._skipped = self._preformatted = 0
        self._inside = ""
        self._level, self._heading = 0, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipped += tag in _SKIPPED
        if self._skipped:
            return
        if tag == "title" and not self.title:
            self._end_line()
            self._inside = "title"
        elif tag in _HEADINGS:
            self._section()
            self._level = _HEADINGS[tag]
            self._inside = tag
        elif tag in _BLOCKS:
            self._end_line()
        elif tag in _CELLS and self._line:
            self._line.append(" | ")
        self._preformatted += tag == "pre"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _SKIPPED:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= tag in _SKIPPED
        elif tag == self._inside:
            text = _BLANKS.sub(" ", "".join(self._line)).strip(" ¶")
            self._line, self._inside = [], ""
            if tag == "title":
                self.title = text
            else:
                self._heading = text
        elif tag in _BLOCKS:
            self._end_line()
        if tag == "pre" and not self._skipped:
            self._preformatted = max(self._preformatted - 1, 0)

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if self._preformatted and not self._inside:
            first, *others = data.split("\n")
            self._line.append(first)
            for line in others:
                self._end_line()
                self._line.append(line)
            return
        self._line.append(data)

    def close(self) -> None:
        super().close()
        self._section()

    def _end_line(self) -> None:
        if self._inside:  # a line end in a heading is a blank
            self._line.append(" ")
            return
        text = "".join(self._line)
        text = text.rstrip() if self._preformatted else _BLANKS.sub(" ", text).strip(" |¶")
        if text.strip():
            self._lines.append(text)
        self._line = []

    def _section(self) -> None:
        self._inside = ""
        self._end_line()
        self.found.append((self._level, self._heading, self._lines))
        self._lines, self._level, self._heading = [], 0, ""


def encoding(page: bytes) -> str:
    """Return the encoding that a page says it has; "" for one that says none."""
    found = _CHARSET.search(page[:_CHARSET_BYTES])
    name = found[1].decode("ascii", "replace").lower() if found else ""
    return "windows-1252" if name in _WINDOWS else name


def sections(text: str, name: str) -> list[Section]:
    """Return the sections of a page; ``name`` is its title where it says none."""
    page = _Page(name)
    page.feed(text)
    page.close()
    outline = Outline(page.title or name)
    found = []
    for level, heading, lines in page.found:
        if level:
            outline.heading(level, heading)
        found.append(Section(outline.path, "\n".join(lines)))
    return found
