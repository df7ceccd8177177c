"""Documents as they are: files of text, each of which is a document, cut into passages."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from inranker_flow.corpora.passages import Section, Size, cut
from inranker_flow.corpora.problems import Problems, Rows
from inranker_flow.corpora.sources import html, layout, markdown
from inranker_flow.corpora.sources.lines import BATCH_CHARACTERS, LINE_BYTES, encoding_of, opened
from inranker_flow.corpora.sources.rows import ROWS, as_columns
from inranker_flow.errors import UserError

log = logging.getLogger(__name__)

#: What an id cannot hold, and what tells its parts apart.
_UNUSABLE = re.compile(r"[\s\x00-\x1f%#]")


@dataclass(frozen=True)
class TextFile:
    """One document: its ``name`` in the collection, and how messages call it."""

    name: str
    path: Path
    shown: str
    size: int


def check_converter(names: Iterable[str], shown: str) -> None:
    """Refuse files that only another package reads, where that is not installed: a part of a corpus is not left out."""
    office = [name for name in names if layout.text_form(name) == "office"]
    if office and importlib.util.find_spec("markitdown") is None:
        raise UserError(
            f"{shown}: {len(office):,} of its files are PDF or DOCX ({layout.listed(office[:1])}), which need a converter: "
            "pip install 'inranker-flow[documents]'; or write them as a BEIR folder where it is (inranker collection FROM --to "
            "FOLDER), or take them away",
            code="package-missing",
        )


def documents(files: Sequence[TextFile], shown: str, size: Size, problems: Problems) -> Iterator[Rows]:
    """Yield passages: columns doc_id, title, text, document."""
    lines: list[int] = []
    rows: list[tuple[str, str, str, str]] = []
    characters = amount = 0
    for number, file in enumerate(files, 1):
        document = document_id(file.name)
        for part, (title, text) in enumerate(_passages(file, size, problems), 1):
            lines.append(number)
            rows.append((f"{document}#{part}", title, text, document))
            characters += len(text)
        amount += file.size
        if len(rows) >= ROWS or characters >= BATCH_CHARACTERS:
            yield Rows(shown, lines, as_columns(rows, 4), amount)
            lines, rows = [], []
            characters = amount = 0
    yield Rows(shown, lines, as_columns(rows, 4), amount)


def document_id(name: str) -> str:
    """Return the id of the document in the file ``name``: the name, with what an id cannot hold as %20 and the like."""
    printable = layout.printable(name)
    return _UNUSABLE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), printable)


def _passages(file: TextFile, size: Size, problems: Problems) -> list[tuple[str, str]]:
    """Return the passages of a file; none for one that is reported."""
    form = layout.text_form(file.name)
    # A name of other bytes than UTF-8's is a title all the same.
    title = os.fsencode(PurePosixPath(layout.unpacked(file.name)).stem).decode("utf-8", "replace")
    if form == "office":
        text = _converted(file, problems)
        missing = "no text is found in it (a PDF of scanned pages needs OCR)"
    else:
        text = _decoded(file, problems)
        missing = "has no text"
    if text is None:
        return []
    sections = list(_READERS[form](text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n"), title))
    said = any(each.text.strip() or each.path != sections[0].path for each in sections)
    if not said and (form in ("office", "html") or not text.strip()):
        problems.add("empty_document", file.shown, 1, missing)
        return []
    return list(cut(sections, size))


def _plain(text: str, title: str) -> list[Section]:
    return [Section((title,), "\n".join(line.rstrip() for line in text.split("\n") if line.strip()))]


_READERS: dict[layout.TextForm, Callable[[str, str], Iterable[Section]]] = {
    "plain": _plain,
    "markdown": markdown.sections,
    "html": html.sections,
    "office": markdown.sections,
}


def _decoded(file: TextFile, problems: Problems) -> str | None:
    """Return the text of a file; None for one that is too long or not UTF-8, which is reported."""
    with opened(file.path, file.shown) as (content, _):
        data = content.read(LINE_BYTES + 1)
    if len(data) > LINE_BYTES:
        problems.add("malformed", file.shown, 1, f"longer than {LINE_BYTES:,} bytes, so not one document of many")
        return None
    try:
        text = data.decode(encoding_of(data[:4]) or "utf-8-sig")
    except UnicodeDecodeError as error:
        said = html.encoding(data) if layout.text_form(file.name) == "html" else ""
        if said:
            with suppress(UnicodeDecodeError, LookupError):
                return data.decode(said)
        line = data.count(b"\n", 0, error.start) + 1
        problems.add("wrong_encoding", file.shown, line, f"not UTF-8 (the byte 0x{data[error.start]:02x})")
        return None
    if "\0" in text:
        problems.add("malformed", file.shown, 1, "holds NUL bytes, so it is no text")
        return None
    return text


def _converted(file: TextFile, problems: Problems) -> str | None:
    """Return a PDF or DOCX as Markdown; None for one that cannot be converted, which is reported."""
    from markitdown import StreamInfo
    from markitdown.converters import DocxConverter, PdfConverter

    # By its name: `MarkItDown` guesses, and reads whatever it takes for text.
    suffix = PurePosixPath(file.name).suffix.lower()
    converter = PdfConverter() if suffix == ".pdf" else DocxConverter()
    logging.getLogger("pdfminer").setLevel(logging.ERROR)  # it complains of every font
    try:
        with file.path.open("rb") as content:
            return str(converter.convert(content, StreamInfo(extension=suffix)).markdown)
    except Exception as error:  # of four libraries, without a common base; whichever it is, the file is what is wrong
        said = " ".join(str(error).split())[:200]
        problems.add("malformed", file.shown, 1, f"cannot be converted ({type(error).__name__}: {said})")
        return None
