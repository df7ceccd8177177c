"""Which columns of a table are a document's id, title and text: the mapping of `CorpusConfig.fields`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from inranker_flow.config.values import FieldName
from inranker_flow.corpora.problems import BadCollection

#: How the column of documents' ids is called where nobody says it.
ID_NAMES = ("doc_id", "_id", "corpus_id", "corpus-id", "docid", "id")
_NAMES = re.compile(r"\{([^{}]+)\}")
_MISSING = object()
#: Names that a message gives at most, in characters.
_LISTED = 300


class BadValue(Exception):
    """A value that is no text."""


@dataclass(frozen=True)
class Template:
    """A column, or text with the columns in braces in it."""

    said: str

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in their order."""
        return tuple(_NAMES.findall(self.said)) or (self.said,)

    def text(self, row: Mapping[str, Any]) -> str:
        """Return the text of a row; "" where none of the columns has any."""
        values = {name: as_text(lookup(row, name), name) for name in self.names}
        if self.said in values:
            return values[self.said]
        filled = _NAMES.sub(lambda found: values[found[1]], self.said) if any(values.values()) else ""
        return filled.strip()


@dataclass(frozen=True)
class Fields:
    """The columns of a document. Without ``document`` each row is a document, else a passage of that document."""

    id: Template
    text: Template
    title: Template | None = None
    document: Template | None = None

    @property
    def every(self) -> tuple[Template, ...]:
        return tuple(filter(None, (self.id, self.title, self.text, self.document)))

    @property
    def width(self) -> int:
        """Columns of a row that :meth:`row` returns."""
        return 4 if self.document else 3

    def columns(self) -> list[str]:
        """Return the names of all columns, each once."""
        return list(dict.fromkeys(name for each in self.every for name in each.names))

    def row(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Return doc_id, title, text (and the document's id). Raises :class:`BadValue` for a row that has no id, or a value that
        is no text."""
        row = _id(self.id, values), self.title.text(values) if self.title else "", self.text.text(values)
        return (*row, _id(self.document, values)) if self.document else row


def _id(template: Template, values: Mapping[str, Any]) -> str:
    """Return what names a document. A fraction is none: 7 became 7.0 where a column of whole numbers has a hole."""
    found = template.text(values)
    if not found:
        raise BadValue(f"has no {' or '.join(template.names)}")
    for name in template.names:
        if isinstance(value := lookup(values, name), float):
            raise BadValue(f"{name!r} is {value}, a fraction; write ids as text or as whole numbers")
    return found


def of_table(asked: Mapping[FieldName, str], names: Iterable[str], shown: str) -> Fields:
    """Return the mapping that is ``asked`` for, or the usual names, of a table with the columns ``names``.

    Raises :class:`BadCollection` that names the column that is not there.
    """
    names = list(names)
    usual = next((name for name in ID_NAMES if name in names), ID_NAMES[0])
    given: dict[FieldName, str] = {"id": usual, "text": "text", **asked}
    if "title" in names:
        given.setdefault("title", "title")
    found = Fields(**{key: Template(value) for key, value in given.items()})
    for key, template in given.items():
        for name in Template(template).names:
            if name not in names and name.partition(".")[0] not in names:
                raise missing(key if key in asked else "", name, names, shown)
    for name in found.columns():
        if names.count(name) > 1:
            raise BadCollection(
                f"{shown}: has {names.count(name)} columns {name}; keep one of them", code="collection-column"
            )
    return found


def missing(key: str | None, name: str, names: Iterable[str], shown: str) -> BadCollection:
    """Return the line about a column that is not there; ``key`` of `fields` names it, "" if it could, None if it cannot."""
    there = ", ".join(each if each.isprintable() else repr(each) for each in names)[:_LISTED]
    remedy = f"; correct fields.{key}" if key else "; name its columns with fields: {id: ..., title: ..., text: ...}"
    return BadCollection(
        f"{shown}: has no column {name} (it has: {there}){'' if key is None else remedy}", code="collection-column"
    )


def lookup(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column; ``a.b`` is b of the object a where no column is called so."""
    value = row.get(name, _MISSING)
    if value is not _MISSING:
        return value
    head, point, rest = name.partition(".")
    inner = row.get(head) if point else None
    return lookup(inner, rest) if isinstance(inner, Mapping) else None


def as_text(value: Any, name: str) -> str:
    """Return a value as text: numbers as they are written, a list joined by blanks. Raises :class:`BadValue` for an object."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple):
        return " ".join(filter(None, (as_text(each, name) for each in value)))
    if isinstance(value, Mapping | bytes):
        raise BadValue(f"{name!r} is {str(value)[:40]} and not text")
    if isinstance(value, Decimal | int | float) and not isinstance(value, bool):
        return f"{value:f}" if isinstance(value, Decimal) else str(value)
    return str(value)
