"""Collections that the library ir_datasets knows by id."""

from __future__ import annotations

import difflib
import logging
import re
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any

from inranker_flow.config.sections import CorpusConfig
from inranker_flow.corpora.problems import BadCollection, Problems, Rows
from inranker_flow.corpora.sources.lines import BadLine, whole
from inranker_flow.corpora.sources.rows import ROWS, Row, Split, as_columns
from inranker_flow.errors import UserError

log = logging.getLogger(__name__)

#: Fields of documents of which a data set does not say itself what their text is: a title, and what follows it.
TITLES = ("title", "headline", "page_title", "document_title", "conclusion", "func_name")
TEXTS = (
    *("text", "contents", "content", "passage", "condition", "abstract", "summary", "detailed_description"),
    *("description", "body", "eligibility", "premises_texts", "code"),
)
#: The same of queries, of which the first that is there is the query.
QUERIES = ("text", "query", "title", "question", "utterance", "raw_utterance", "desc", "description")
#: Parts of ids that name a split, beside the names in the configuration.
_TRAIN, _TEST = {"train", "training"}, {"test", "dev", "dev1", "dev2", "dev3", "val", "valid", "validation", "eval"}
#: Ids that a message names at most.
_NAMED = 6


class IrDatasets:
    """A data set by its ir_datasets id, which names one split (:func:`split_of`)."""

    unit = "documents"
    labelled_origin = "supervised"
    judged_together: tuple[str, ...] = ()

    def __init__(self, name: str, corpus: CorpusConfig) -> None:
        self.shown, self.corpus = f"ir_datasets:{name}", corpus
        self.dataset = look_up(name)
        check_fields(name, self.dataset, corpus)
        self.split = split_of(name, corpus)
        log.info("%s: read as the %s split", self.shown, self.split)
        self.not_evaluated = unjudged(name, self.dataset, self.split)
        with self._explained():
            self.total = self.dataset.docs_count() or 0

    def judged(self, split: Split) -> tuple[str, ...]:
        return (self.shown,) if split == self.split and self.dataset.has_qrels() else ()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in one line why the library cannot give its data: it downloads on first use, and raises whatever it meets."""
        try:
            yield
        except (UserError, MemoryError):
            raise
        except Exception as error:
            raise UserError(f"{self.shown}: {_why(self.dataset, error)}", code="dataset-unreachable") from error

    def _rows(
        self, items: Callable[[], Iterator[Any]], parse: Callable[[Any], Row], width: int, problems: Problems
    ) -> Iterator[Rows]:
        start = 1
        with self._explained():
            left = iter(items())
        while True:
            with self._explained():
                chunk = list(islice(left, ROWS))
            if not chunk:
                return
            lines, rows = [], []
            for line, item in enumerate(chunk, start):
                try:
                    row = parse(_named(item))
                    "".join(value for value in row if isinstance(value, str)).encode()
                except UnicodeEncodeError:
                    problems.add("wrong_encoding", self.shown, line, "holds characters that UTF-8 cannot")
                except BadLine as error:
                    problems.add(error.kind, self.shown, line, str(error))
                else:
                    lines.append(line)
                    rows.append(row)
            yield Rows(self.shown, lines, as_columns(rows, width), len(chunk))
            start += len(chunk)

    def _by_type(
        self, reader: Callable[[type, str, Sequence[str]], Callable[[Any], Row]], fields: Sequence[str]
    ) -> Callable[[Any], Row]:
        """Reads each row by the ``reader`` of its type: one data set may hold several."""
        readers: dict[type, Callable[[Any], Row]] = {}

        def parse(row: Any) -> Row:
            kind = type(row)
            if kind not in readers:
                readers[kind] = reader(kind, self.shown, fields)
            return readers[kind](row)

        return parse

    def documents(self, problems: Problems) -> Iterator[Rows]:
        parse = self._by_type(document_reader, self.corpus.text_fields)
        return self._rows(self.dataset.docs_iter, parse, 3, problems)

    def queries(self, problems: Problems) -> Iterator[Rows]:
        if not self.dataset.has_queries():
            return iter(())
        parse = self._by_type(query_reader, self.corpus.query_fields)
        return self._rows(self.dataset.queries_iter, parse, 2, problems)

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        if split != self.split or not self.dataset.has_qrels():
            return iter(())

        def parse(qrel: Any) -> Row:
            query_id, doc_id = _id(qrel, "query_id"), _id(qrel, "doc_id")
            return query_id, doc_id, whole(str(getattr(qrel, "relevance", None)))

        return self._rows(self.dataset.qrels_iter, parse, 3, problems)


# --- what the catalogue says, without a download ----------------------------------------------------------------------


def look_up(name: str) -> Any:
    """Return the data set ``name``. Raises :class:`BadCollection` for an id that is not known or has no documents."""
    import ir_datasets

    shown = f"ir_datasets:{name}"
    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        known = {each.lower(): each for each in ids()}
        close = [known[each] for each in difflib.get_close_matches(name.lower(), known, 3)]
        hint = f"did you mean {' or '.join(close)}?" if close else "see https://ir-datasets.com"
        raise BadCollection(f"{shown}: ir_datasets knows no such id; {hint}", code="dataset-unknown") from error
    except Exception as error:  # ids that are made on demand are looked up in a file that is downloaded
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{shown}: cannot be looked up ({type(error).__name__}: {reason}); check the id, the network and IR_DATASETS_HOME",
            code="dataset-unreachable",
        ) from error
    if not dataset.has_docs():
        other = [each for each in _family(name) if ir_datasets.registry[each].has_docs()]
        raise BadCollection(f"{shown}: has no documents; give an id that has{_such_as(other)}", code="dataset-unusable")
    return dataset


def ids() -> list[str]:
    """Return all ids that ir_datasets lists."""
    import ir_datasets

    return list(ir_datasets.registry)


def split_of(name: str, corpus: CorpusConfig) -> Split:
    """Return the split that an id names: by the last of its parts that names one, test where none does.

    `msmarco-passage/train/judged` is training, `antique/train/split200-valid` is not. The names in the configuration come
    first, so that an id whose split has a name of its own can be said to be the one or the other.
    """
    own: dict[str, Split] = {corpus.train_split: "train", corpus.test_split: "test"}
    parts = name.split("/")[1:] or [name]
    for part in reversed(parts):
        if part in own:
            return own[part]
        for word in reversed(re.split(r"[-_.]", part)):
            if word in _TRAIN | _TEST:
                return "train" if word in _TRAIN else "test"
    return "test"


def unjudged(name: str, dataset: Any, split: Split) -> str:
    """Return the reason for which the data set will not be evaluated; "" if it will be, or holds documents alone."""
    if not dataset.has_qrels():
        other = judged_ids(name)
        if not (dataset.has_queries() or other):
            return ""
        return f"ir_datasets:{name} has no judgements{_such_as(other, '; some are in ')}"
    if split == "train":
        return f"ir_datasets:{name} is a training split"
    return ""


def judged_ids(name: str, split: Split | None = None, corpus: CorpusConfig | None = None) -> list[str]:
    """Return ids at, above or below ``name`` that have documents and judgements (of ``split``)."""
    import ir_datasets

    found = []
    for each in _family(name):
        dataset = ir_datasets.registry[each]
        if dataset.has_qrels() and dataset.has_docs() and (corpus is None or split_of(each, corpus) == split):
            found.append(each)
    return found


def needs_permission(dataset: Any) -> str:
    """Return the documentation's sentence about documents that are not free to download; "" if they are free."""
    try:
        about = dataset.documentation() or {}
    except Exception as error:
        # A data set that somebody registered need not have any documentation, which these say. Of another error nobody
        # knows whether permission is needed, so the person reads it.
        return "" if isinstance(error, AttributeError | KeyError | NotImplementedError) else str(error)[:100]
    return str(about.get("docs_instructions") or "")


def check_fields(name: str, dataset: Any, corpus: CorpusConfig) -> None:
    """Refuse documents or queries of which nobody can say what their text is; those of types that are not said pass."""
    for has, get, reader, chosen in (
        (dataset.has_docs(), "docs_cls", document_reader, corpus.text_fields),
        (dataset.has_queries(), "queries_cls", query_reader, corpus.query_fields),
    ):
        if has:
            try:
                kind = getattr(dataset, get)()
            except Exception as error:  # whoever registered it need not say; its rows do
                log.debug("%s: no %s()", name, get, exc_info=error)
                continue
            if not _has_fields(kind):
                continue
            reader(kind, f"ir_datasets:{name}", chosen)


def _family(name: str) -> list[str]:
    """Return ids below ``name``, and those that share its beginning where there is none below it."""
    every = ids()
    below = [each for each in every if each == name or each.startswith(f"{name}/")]
    if len(below) > 1 or "/" not in name:
        return below
    above = name.rpartition("/")[0]
    return [each for each in every if each == above or each.startswith(f"{above}/")]


def _such_as(names: Sequence[str], before: str = ", such as ") -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return f"{before}{', '.join(names[:_NAMED])}{more}" if names else ""


# --- fields -----------------------------------------------------------------------------------------------------------


def document_reader(kind: type, shown: str, chosen: Sequence[str]) -> Callable[[Any], Row]:
    """Return a function that makes (doc_id, title, text) of a document of type ``kind``; ``chosen`` fields come before its own
    say."""
    fields = _fields(kind, shown, "documents", "doc_id")
    if chosen:
        _check_chosen(chosen, fields, shown, "text_fields", "documents")
        return lambda each: (_id(each, "doc_id"), "", _joined(each, chosen))
    if "text" in fields:
        title = ("title",) if "title" in fields else ()
        return lambda each: (_id(each, "doc_id"), _joined(each, title), _text(each, "text"))
    if hasattr(kind, "default_text"):
        return lambda each: (_id(each, "doc_id"), "", _default(each))
    titles = [name for name in TITLES if name in fields][:1]
    texts = [name for name in TEXTS if name in fields]
    if not texts:
        raise BadCollection(_choose(shown, "documents", fields, "text_fields"), code="dataset-fields")
    return lambda each: (_id(each, "doc_id"), _joined(each, titles), _joined(each, texts))


def query_reader(kind: type, shown: str, chosen: Sequence[str]) -> Callable[[Any], Row]:
    """Return a function that makes (query_id, text) of a query of type ``kind``; ``chosen`` fields come before its own say."""
    fields = _fields(kind, shown, "queries", "query_id")
    if chosen:
        _check_chosen(chosen, fields, shown, "query_fields", "queries")
        return lambda each: (_id(each, "query_id"), _joined(each, chosen))
    if hasattr(kind, "default_text"):
        return lambda each: (_id(each, "query_id"), _default(each))
    name = next((name for name in QUERIES if name in fields), "")
    if not name:
        raise BadCollection(_choose(shown, "queries", fields, "query_fields"), code="dataset-fields")
    return lambda each: (_id(each, "query_id"), _text(each, name))


def _has_fields(kind: type) -> bool:
    return hasattr(kind, "_fields") or bool(getattr(kind, "__annotations__", {})) or hasattr(kind, "default_text")


def _named(item: Any) -> Any:
    """Return ``item`` with named fields: what a data set gives as a mapping, or as an object of a class that names none."""
    values = item if isinstance(item, Mapping) else {} if _has_fields(type(item)) else getattr(item, "__dict__", {})
    return _tuple_of(tuple(map(str, values)))(*values.values()) if values else item


@cache
def _tuple_of(names: tuple[str, ...]) -> Any:
    return namedtuple("Row", names, rename=True)


def _fields(kind: type, shown: str, what: str, key: str) -> tuple[str, ...]:
    fields = tuple(getattr(kind, "_fields", ())) or tuple(getattr(kind, "__annotations__", {}))
    if fields and key not in fields:
        raise BadCollection(
            f"{shown}: its {what} have no {key} (they have: {', '.join(fields)[:300]})", code="dataset-fields"
        )
    return fields


def _check_chosen(chosen: Sequence[str], fields: Sequence[str], shown: str, setting: str, what: str) -> None:
    for name in chosen:
        if name not in fields:
            raise BadCollection(
                f"{shown}: {setting}: its {what} have no {name!r} (they have: {', '.join(fields)[:300]})",
                code="dataset-fields",
            )


def _choose(shown: str, what: str, fields: Sequence[str], setting: str) -> str:
    there = ", ".join(fields)[:300] or "no named fields"
    return f"{shown}: does not say what the text of its {what} is; set {setting} to some of their fields ({there})"


def _id(item: Any, key: str) -> str:
    value = getattr(item, key, None)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadLine(f"{key!r} is {str(value)[:40]!r} and not text")
    return value


def _joined(item: Any, names: Sequence[str]) -> str:
    return " ".join(filter(None, (_text(item, name) for name in names)))


def _text(item: Any, name: str) -> str:
    """Return the text in a field: "" for None, the parts of a list joined."""
    value = getattr(item, name, None)
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    raise BadLine(f"{name!r} is {str(value)[:40]!r} and not text")


def _default(item: Any) -> str:
    """Return the data set's own text of a document; it raises if a field is missing in a row."""
    try:
        value = item.default_text()
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise BadLine(f"ir_datasets cannot form its text ({type(error).__name__}: {str(error)[:100]})") from error
    if value is None or isinstance(value, str):
        return value or ""
    raise BadLine(f"its text is {str(value)[:40]!r} and not text")


def _why(dataset: Any, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    if permission := needs_permission(dataset):
        return (
            f"cannot be read ({type(error).__name__}: {reason}); {permission}: get them as https://ir-datasets.com says, put "
            "them where IR_DATASETS_HOME points to, or give a BEIR folder or s3:// instead"
        )
    if isinstance(error, ImportError):
        return f"cannot be read ({reason}); install what it needs, or give a BEIR folder or s3:// instead"
    return (
        f"cannot be read ({type(error).__name__}: {reason}); it downloads on first use, so check the network and "
        "IR_DATASETS_HOME, or give a BEIR folder or s3:// instead"
    )
