"""Rows of BEIR's layout: JSON lines, and judgements as JSON lines or in columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from inranker_flow.corpora.problems import Problems, Rows
from inranker_flow.corpora.sources.layout import Form
from inranker_flow.corpora.sources.lines import BadLine, batches, cells, json_object, string, whole
from inranker_flow.corpora.sources.rows import Row

#: How the columns of judgements are called: BEIR's names, the hub's, TREC's, and what people write.
QUERY_NAMES = ("query-id", "query_id", "qid", "queryid", "topic", "query")
DOC_NAMES = ("corpus-id", "corpus_id", "doc-id", "doc_id", "docid", "docno", "pid", "passage_id", "document", "doc")
GRADE_NAMES = ("score", "relevance", "rel", "label", "grade", "judgement", "judgment")


def documents(path: Path, shown: str, problems: Problems) -> Iterator[Rows]:
    """Return columns doc_id, title, text."""
    return batches(path, shown, _document, 3, problems)


def queries(path: Path, shown: str, problems: Problems) -> Iterator[Rows]:
    """Return columns query_id, text."""
    return batches(path, shown, _query, 2, problems)


def judgements(path: Path, shown: str, form: Form, problems: Problems) -> Iterator[Rows]:
    """Return columns query_id, doc_id, relevance."""
    return batches(path, shown, judgement_parser(form), 3, problems)


def judgement_parser(form: Form) -> Callable[[str], Row | None]:
    """Return the parser of the lines of one file."""
    if form == "jsonl":
        return _judgement
    return _JudgementLine(_comma_separated if form == "csv" else _blank_separated)


def _document(text: str) -> Row:
    row = json_object(text)
    return string(row, "_id"), string(row, "title", ""), string(row, "text", "")


def _query(text: str) -> Row:
    row = json_object(text)
    return string(row, "_id"), string(row, "text", "")


def _judgement(text: str) -> Row:
    row = {name.lower(): value for name, value in json_object(text).items()}
    query_id, doc_id = (_named_id(row, names) for names in (QUERY_NAMES, DOC_NAMES))
    grade = next((row[name] for name in GRADE_NAMES if name in row), None)
    if grade is None:
        raise BadLine(f"has no {GRADE_NAMES[0]!r}")
    return query_id, doc_id, whole(str(grade))


def _named_id(row: dict[str, Any], names: Sequence[str]) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadLine(f"has no {names[0]!r} that is text")
    return value.strip()


def _blank_separated(text: str) -> list[str]:
    """Return columns between tabs, or between any white space where those are not three or four."""
    if text[:1] == '"' and "\t" in text:
        return _quoted(text, "\t")
    parts = [part.strip() for part in text.split("\t")]
    return parts if len(parts) in (3, 4) and all(parts) else text.split()


def _comma_separated(text: str) -> list[str]:
    return _quoted(text, ",")


def _quoted(text: str, between: str) -> list[str]:
    return [cell.strip() for cell in cells(text, between)]


class _JudgementLine:
    """Parser of BEIR's `query-id corpus-id score` and TREC's `query 0 document relevance` (the second is the sub-topic or
    nothing); a header may come first, and says the order of the columns."""

    def __init__(self, separated: Callable[[str], list[str]]) -> None:
        self._separated = separated
        self._first = True
        self._order, self._width = (0, 0, 0), 0

    def __call__(self, text: str) -> Row | None:
        first, self._first = self._first, False
        if "\r" in text.rstrip("\r\n"):
            raise BadLine("its lines end with \\r alone; write the file with \\n or \\r\\n")
        parts = self._separated(text)
        # A header may have a column without a name, such as pandas' index.
        if first and (self._is_header([part.strip() for part in text.split("\t")]) or self._is_header(parts)):
            return None
        if len(parts) == self._width:
            query, doc, grade = self._order
            return parts[query], parts[doc], whole(parts[grade])
        if len(parts) not in (3, 4):
            more = ", but six columns as a run has" if len(parts) == 6 else ""
            raise BadLine(f"neither `query-id corpus-id score` nor `query 0 document relevance`{more}")
        return parts[0], parts[-2], whole(parts[-1])

    def _is_header(self, parts: list[str]) -> bool:
        names = [part.lower().strip('"') for part in parts]
        found = [
            [at for at, name in enumerate(names) if name in known] for known in (QUERY_NAMES, DOC_NAMES, GRADE_NAMES)
        ]
        if all(len(each) == 1 for each in found):
            query, doc, grade = (each[0] for each in found)
            self._order, self._width = (query, doc, grade), len(names)
            return True
        if len(parts) not in (3, 4) or "id" not in names[0]:
            return False
        try:
            whole(parts[-1])
        except BadLine:
            return not parts[-1][:1].isdigit() and parts[-1][:1] not in ("-", "+", ".")
        return False
