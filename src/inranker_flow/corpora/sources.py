"""Where collections come from: BEIR folders, ir_datasets, Parquet files, published soft labels, the demo world.

A source yields rows in batches with the file and line of each, and reports rows that cannot be read at all. What the
rows mean, and whether they fit together, is checked in one place for all sources: :mod:`.prepare`.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from inranker_flow import storage
from inranker_flow.config import CorpusConfig
from inranker_flow.corpora.hashing import HashSet, hash_rows
from inranker_flow.corpora.problems import Problems, Rows
from inranker_flow.errors import UserError

#: Rows in one batch: what is held as Python objects at a time.
ROWS = 16_384

Split = Literal["train", "test"]
Row = tuple[Any, ...]


class Source(Protocol):
    """A collection as it lies somewhere."""

    #: Total ``amount`` of the documents' batches, and its unit.
    total: int
    unit: str
    #: Origin of queries that nobody judged and that have published labels.
    labelled_origin: str

    def documents(self, problems: Problems) -> Iterator[Rows]:
        """Columns doc_id, title, text."""

    def queries(self, problems: Problems) -> Iterator[Rows]:
        """Columns query_id, text."""

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        """Columns query_id, doc_id, relevance."""


class LabelSource(Protocol):
    """Published soft labels."""

    #: Total ``amount`` of the batches, and its unit.
    total: int
    unit: str

    def labels(self, problems: Problems) -> Iterator[Rows]:
        """Columns query_id, doc_id, false_logit, true_logit."""


@contextmanager
def open_source(corpus: CorpusConfig) -> Iterator[tuple[Source, LabelSource | None]]:
    """The source that ``corpus.uri`` names, and its published labels. :class:`UserError` where there is none."""
    scheme, _, rest = corpus.uri.partition(":")
    labels = _label_source(corpus.labels) if corpus.labels else None
    if scheme == "ir_datasets":
        yield IrDatasets(rest, corpus), labels
    elif scheme == "inranker-beir":
        if labels:
            raise UserError(f"{corpus.name}: {corpus.uri} brings its own labels; remove labels: {corpus.labels}")
        published = InRankerBeir(rest)
        yield published, published
    elif scheme == "demo":
        with tempfile.TemporaryDirectory(prefix="inranker-demo-") as folder:
            _write_demo(rest, Path(folder))
            yield BeirFolder(Path(folder), corpus.uri, corpus), labels
    else:
        path = storage.local_copy(corpus.uri)
        if path.suffix == ".parquet" or (path / "corpus.parquet").is_file():
            yield ParquetCorpus(path, corpus.uri), labels
        elif path.is_dir():
            yield BeirFolder(path, corpus.uri, corpus), labels
        else:
            raise UserError(
                f"{corpus.uri}: not a collection; give a folder with corpus.jsonl, a .parquet file, s3://, "
                "ir_datasets:ID, inranker-beir:FILE or demo:source/SEED"
            )


def _label_source(uri: str) -> LabelSource:
    scheme, _, rest = uri.partition(":")
    if scheme != "inranker-msmarco":
        raise UserError(f"labels: {uri!r} is not one of the published formats; give inranker-msmarco:FILE.tsv")
    return InRankerMsmarco(rest)


def _write_demo(name: str, folder: Path) -> None:
    from inranker_flow.demo.world import make_world, write_beir

    domain, _, seed = name.partition("/")
    if domain == "source" and seed.isdigit():
        write_beir(make_world("source", int(seed)), folder)
    elif domain == "target" and seed.isdigit():
        write_beir(make_world("target", int(seed)), folder)
    else:
        raise UserError(f"demo:{name}: the demo's collections are demo:source/SEED and demo:target/SEED")


# --- lines of text ----------------------------------------------------------------------------------------------------


def _lines(path: Path, shown: str, problems: Problems) -> Iterator[tuple[int, str, int]]:
    """Line number, text and bytes read since the line before; lines that are not UTF-8 are reported and left out.

    Only a line feed ends a line: MS MARCO's text holds U+0085, at which ``str.splitlines`` would cut.
    """
    try:
        with path.open("rb") as raw:
            # gzip.open returns a binary reader too, but its type says it may be text.
            file: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            position = 0
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    problems.add("wrong_encoding", shown, number, f"not UTF-8 at byte {error.start + 1} of the line")
                    continue
                if file is raw:
                    amount = len(line)
                elif number % 1000 == 0:
                    amount, position = raw.tell() - position, raw.tell()
                else:
                    amount = 0
                if not text.isspace():
                    yield number, text, amount
    except (gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{shown}: not a whole gzip file ({error}); fetch it again") from error


def _batches(
    path: Path, shown: str, parse: Callable[[str], Row | None], width: int, problems: Problems
) -> Iterator[Rows]:
    """Parse a file line by line. ``parse`` returns the row, None to skip the line, or raises ``_BadLine``."""
    lines = _lines(path, shown, problems)
    while chunk := list(islice(lines, ROWS)):
        numbers: list[int] = []
        rows: list[Row] = []
        for number, text, _ in chunk:
            try:
                row = parse(text)
            except _BadLine as error:
                problems.add(error.kind, shown, number, str(error))
                continue
            if row is not None:
                numbers.append(number)
                rows.append(row)
        columns = tuple(map(list, zip(*rows, strict=True))) if rows else tuple([] for _ in range(width))
        yield Rows(shown, numbers, columns, sum(amount for _, _, amount in chunk))


class _BadLine(Exception):
    """A line that cannot be read; ``kind`` as in :mod:`.problems`."""

    def __init__(self, what: str, kind: str = "malformed") -> None:
        super().__init__(what)
        self.kind = kind


_decode = json.JSONDecoder().decode


def _json(text: str) -> dict[str, Any]:
    try:
        row = _decode(text)
    except ValueError as error:
        raise _BadLine(f"not JSON ({error})") from error
    except RecursionError as error:
        raise _BadLine("not a flat JSON object") from error
    if not isinstance(row, dict):
        raise _BadLine("not a JSON object")
    if "\\ud" in text or "\\uD" in text:  # half of a surrogate pair, which UTF-8 cannot hold
        try:
            "".join(value for value in row.values() if isinstance(value, str)).encode()
        except UnicodeEncodeError as error:
            raise _BadLine("holds half of a surrogate pair (\\ud800 to \\udfff)", "wrong_encoding") from error
    return row


def _string(row: dict[str, Any], key: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if value is None:
        if default is None:
            raise _BadLine(f"has no {key!r}")
        return default
    if isinstance(value, str):
        return value
    if key == "_id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _BadLine(f"{key!r} is {json.dumps(value)[:40]} and not text")


def _document(text: str) -> Row:
    row = _json(text)
    return _string(row, "_id"), _string(row, "title", ""), _string(row, "text", "")


def _query(text: str) -> Row:
    row = _json(text)
    return _string(row, "_id"), _string(row, "text", "")


def _whole(value: str) -> int:
    """The integer that ``value`` spells; "1.0" counts as 1."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not number.is_integer() or abs(number) >= 2**31:
        raise _BadLine(f"relevance {value!r} is not a whole number", "bad_relevance")
    return int(number)


class _JudgementLine:
    """Parser of BEIR's `query-id corpus-id score` and TREC's `query 0 document relevance`; skips BEIR's header."""

    def __init__(self) -> None:
        self._first = True

    def __call__(self, text: str) -> Row | None:
        first, self._first = self._first, False
        parts = text.rstrip("\r\n").split("\t")
        if len(parts) == 1:
            parts = text.split()
        if len(parts) not in (3, 4):
            raise _BadLine("neither `query-id corpus-id score` nor `query 0 document relevance`")
        query_id, doc_id, relevance = parts[0], parts[-2], parts[-1]
        if first and not re.fullmatch(r"\s*[-+]?[0-9.]+\s*", relevance) and "id" in query_id.lower():
            return None
        return query_id, doc_id, _whole(relevance)


# --- BEIR folder ------------------------------------------------------------------------------------------------------


class BeirFolder:
    """`corpus.jsonl`, and where there are queries `queries.jsonl` and `qrels/SPLIT.tsv`; each may be gzipped."""

    unit = "bytes"
    labelled_origin = "supervised"

    def __init__(self, folder: Path, shown: str, corpus: CorpusConfig) -> None:
        self.folder, self.shown = folder, shown.rstrip("/")
        self.splits: dict[str, str] = {"train": corpus.train_split, "test": corpus.test_split}
        found = self._find("corpus.jsonl")
        if found is None:
            raise UserError(f"{self.shown}: holds neither corpus.jsonl (BEIR layout) nor corpus.parquet")
        self.corpus = found
        self.total = found.stat().st_size
        self.query_file = self._find("queries.jsonl")
        there = sorted(path.name.split(".")[0] for path in (folder / "qrels").glob("*.tsv*"))
        if there and not set(there) & set(self.splits.values()):
            raise UserError(
                f"{self.shown}/qrels: holds {', '.join(there)} but neither {corpus.train_split}.tsv nor "
                f"{corpus.test_split}.tsv; set train_split or test_split"
            )
        if there and not self.query_file:
            raise UserError(f"{self.shown}: has qrels but no queries.jsonl")

    def _find(self, name: str) -> Path | None:
        paths = (self.folder / name, self.folder / f"{name}.gz")
        return next((path for path in paths if path.is_file()), None)

    def _name(self, path: Path) -> str:
        return f"{self.shown}/{path.relative_to(self.folder).as_posix()}"

    def documents(self, problems: Problems) -> Iterator[Rows]:
        return _batches(self.corpus, self._name(self.corpus), _document, 3, problems)

    def queries(self, problems: Problems) -> Iterator[Rows]:
        if self.query_file:
            yield from _batches(self.query_file, self._name(self.query_file), _query, 2, problems)

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        if path := self._find(f"qrels/{self.splits[split]}.tsv"):
            yield from _batches(path, self._name(path), _JudgementLine(), 3, problems)


# --- ir_datasets ------------------------------------------------------------------------------------------------------


class IrDatasets:
    """A data set by its ir_datasets id, which names one split: training if it ends in the training split's name."""

    unit = "documents"
    labelled_origin = "supervised"

    def __init__(self, name: str, corpus: CorpusConfig) -> None:
        import ir_datasets

        self.shown = f"ir_datasets:{name}"
        try:
            self.dataset = ir_datasets.load(name)
        except KeyError as error:
            raise UserError(f"{self.shown}: ir_datasets knows no such id; see https://ir-datasets.com") from error
        if not self.dataset.has_docs():
            raise UserError(f"{self.shown}: has no documents")
        self.split = "train" if name.split("/")[-1] == corpus.train_split else "test"
        with self._explained():
            self.total = self.dataset.docs_count() or 0

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # downloads: connection, checksum, disk
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.shown}: cannot be read ({type(error).__name__}: {reason}); it downloads on first use, so check "
                "the network and IR_DATASETS_HOME, or give a BEIR folder or s3:// instead"
            ) from error

    def _rows(
        self, items: Iterator[Any], parse: Callable[[Any], Row], width: int, problems: Problems
    ) -> Iterator[Rows]:
        start = 1
        while True:
            with self._explained():
                chunk = list(islice(items, ROWS))
            if not chunk:
                return
            lines, rows = [], []
            for line, item in enumerate(chunk, start):
                try:
                    row = parse(item)
                    "".join(value for value in row if isinstance(value, str)).encode()
                except UnicodeEncodeError:
                    problems.add("wrong_encoding", self.shown, line, "holds characters that UTF-8 cannot")
                except _BadLine as error:
                    problems.add(error.kind, self.shown, line, str(error))
                else:
                    lines.append(line)
                    rows.append(row)
            columns = tuple(map(list, zip(*rows, strict=True))) if rows else tuple([] for _ in range(width))
            yield Rows(self.shown, lines, columns, len(chunk))
            start += len(chunk)

    def documents(self, problems: Problems) -> Iterator[Rows]:
        def parse(document: Any) -> Row:
            # Where there is no field `text` (TREC's, CORD-19's), the data set itself says what its text is.
            if not hasattr(document, "text"):
                return document.doc_id, "", document.default_text()
            return document.doc_id, getattr(document, "title", None) or "", document.text or ""

        with self._explained():
            items = iter(self.dataset.docs_iter())
        return self._rows(items, parse, 3, problems)

    def queries(self, problems: Problems) -> Iterator[Rows]:
        if not self.dataset.has_queries():
            return iter(())
        with self._explained():
            items = iter(self.dataset.queries_iter())
        return self._rows(items, lambda query: (query.query_id, query.default_text() or ""), 2, problems)

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        if split != self.split or not self.dataset.has_qrels():
            return iter(())
        with self._explained():
            items = iter(self.dataset.qrels_iter())
        return self._rows(items, lambda qrel: (qrel.query_id, qrel.doc_id, _whole(str(qrel.relevance))), 3, problems)


# --- Parquet ----------------------------------------------------------------------------------------------------------

_ID = {"doc_id": ("doc_id", "_id", "corpus_id", "corpus-id"), "query_id": ("query_id", "_id", "query-id")}


class ParquetCorpus:
    """A `.parquet` file of documents, or a folder with corpus.parquet and perhaps queries.parquet and qrels.parquet.

    Columns as in :mod:`inranker_flow.schemas` or BEIR's (`_id`, `title`, `text`; `query-id`, `corpus-id`, `score`).
    A judgement belongs to the split that its column ``split`` names, else to its query's ``origin``, else to test.
    """

    unit = "documents"
    labelled_origin = "supervised"

    def __init__(self, path: Path, shown: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self.shown = path, shown.rstrip("/")
        try:
            self.total = pq.read_metadata(self._file("corpus")).num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{self._name('corpus')}: not a readable Parquet file: {error}") from error

    def _file(self, table: str) -> Path:
        return self.path / f"{table}.parquet" if self.path.is_dir() else self.path

    def _name(self, table: str) -> str:
        return f"{self.shown}/{table}.parquet" if self.path.is_dir() else self.shown

    def _read(self, table: str, wanted: dict[str, tuple[str, ...]], optional: dict[str, str | None]) -> Iterator[Rows]:
        """Columns in the order of ``wanted`` and then ``optional`` (name -> value where there is no such column)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        shown = self._name(table)
        try:
            with pq.ParquetFile(self._file(table)) as file:
                there = file.schema_arrow.names
                names: list[str] = []
                for column, spellings in wanted.items():
                    name = next((each for each in spellings if each in there), None)
                    if name is None:
                        raise UserError(f"{shown}: has no column {column} (it has: {', '.join(there)})")
                    names.append(name)
                start = 1
                for batch in file.iter_batches(ROWS, columns=[*names, *(name for name in optional if name in there)]):
                    columns = [batch.column(name).to_pylist() for name in names]
                    for name, default in optional.items():
                        filler = [default] * batch.num_rows
                        columns.append(batch.column(name).to_pylist() if name in there else filler)
                    yield Rows(shown, range(start, start + batch.num_rows), tuple(columns), batch.num_rows)
                    start += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{shown}: not a readable Parquet file: {error}") from error

    def documents(self, problems: Problems) -> Iterator[Rows]:
        for rows in self._read("corpus", {"doc_id": _ID["doc_id"], "text": ("text",)}, {"title": ""}):
            ids, texts, titles = rows.columns
            yield _texts(Rows(rows.file, rows.lines, (ids, titles, texts), rows.amount), problems)

    def queries(self, problems: Problems) -> Iterator[Rows]:
        if self.path.is_dir() and self._file("queries").is_file():
            for rows in self._read("queries", {"query_id": _ID["query_id"], "text": ("text",)}, {}):
                yield _texts(rows, problems)

    def _origins(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self._file("queries").is_file():
            for rows in self._read("queries", {"query_id": _ID["query_id"]}, {"origin": None}):
                found.update((str(id_), origin) for id_, origin in zip(*rows.columns, strict=True) if origin)
        return found

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        if not (self.path.is_dir() and self._file("qrels").is_file()):
            return
        wanted = {
            "query_id": ("query_id", "query-id"),
            "doc_id": ("doc_id", "corpus-id", "corpus_id"),
            "relevance": ("relevance", "score"),
        }
        origins = self._origins()
        for rows in self._read("qrels", wanted, {"split": None}):
            kept: list[tuple[int, Row]] = []
            for line, query_id, doc_id, relevance, where in zip(rows.lines, *rows.columns, strict=True):
                if where is None:
                    where = "train" if origins.get(str(query_id)) == "supervised" else "test"
                if where != split:
                    continue
                try:
                    if query_id is None or doc_id is None:
                        raise _BadLine("has no query or no document")
                    kept.append((line, (str(query_id), str(doc_id), _whole(str(relevance)))))
                except _BadLine as error:
                    problems.add(error.kind, rows.file, line, str(error))
            columns = tuple(map(list, zip(*(row for _, row in kept), strict=True))) if kept else ([], [], [])
            yield Rows(rows.file, [line for line, _ in kept], columns, rows.amount)


def _texts(rows: Rows, problems: Problems) -> Rows:
    """The rows with an id (whole numbers become text) and with "" for missing text; other types are reported."""
    ids, *texts = rows.columns
    lines, kept = [], []
    for line, id_, *values in zip(rows.lines, ids, *texts, strict=True):
        if isinstance(id_, int):
            id_ = str(id_)
        if not isinstance(id_, str) or not all(value is None or isinstance(value, str) for value in values):
            problems.add("malformed", rows.file, line, "has no id, or a column that is not text")
            continue
        lines.append(line)
        kept.append((id_, *(value or "" for value in values)))
    columns = tuple(map(list, zip(*kept, strict=True))) if kept else tuple([] for _ in rows.columns)
    return Rows(rows.file, lines, columns, rows.amount)


# --- published soft labels --------------------------------------------------------------------------------------------


def _logit(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _BadLine(f"logit {value!r} is not a finite number")
    return number


class InRankerMsmarco:
    """`InRanker_msmarco.tsv`: true logit, false logit, query id, document id (its own documentation says otherwise).

    The values are kept as they are, uncentred (unicamp-dl/InRanker, training/utils.py).
    """

    unit = "bytes"

    def __init__(self, uri: str) -> None:
        self.path, self.shown = storage.local_copy(uri), uri
        if not self.path.is_file():
            raise UserError(f"{uri}: not a file; give the .tsv with true logit, false logit, query id and document id")
        self.total = self.path.stat().st_size

    def labels(self, problems: Problems) -> Iterator[Rows]:
        return _batches(self.path, self.shown, self._parse, 4, problems)

    @staticmethod
    def _parse(text: str) -> Row | None:
        parts = text.rstrip("\r\n").split("\t")
        if len(parts) != 4:
            raise _BadLine("not the four columns positive_score, negative_score, query_id, doc_id")
        true_logit, false_logit, query_id, doc_id = parts
        if true_logit == "positive_score":
            return None
        return query_id, doc_id, _logit(false_logit), _logit(true_logit)


class InRankerBeir:
    """`inpars_beir_dataset.jsonl`: query, contents, true_logit, false_logit, as text only.

    Ids are digests of the text, so a text that occurs in many rows is one document or query.
    """

    unit = "bytes"
    labelled_origin = "synthetic"

    def __init__(self, uri: str) -> None:
        self.path, self.shown = storage.local_copy(uri), uri
        if not self.path.is_file():
            raise UserError(f"{uri}: not a file; give the .jsonl with query, contents, true_logit and false_logit")
        self.total = self.path.stat().st_size

    def _distinct(self, key: str, title: bool) -> Iterator[Rows]:
        """The distinct texts under ``key``. Unreadable lines are reported once, by :meth:`labels`."""
        seen = HashSet()

        def parse(text: str) -> Row:
            return (_complete(text)[key],)

        for rows in _batches(self.path, self.shown, parse, 1, Problems("repair")):
            new = seen.add(hash_rows(rows.columns[0])) if rows.lines else np.empty(0, bool)
            texts = [text for text, is_new in zip(rows.columns[0], new, strict=True) if is_new]
            lines = [line for line, is_new in zip(rows.lines, new, strict=True) if is_new]
            ids = [_digest(text) for text in texts]
            columns = (ids, [""] * len(ids), texts) if title else (ids, texts)
            yield Rows(self.shown, lines, columns, rows.amount)

    def documents(self, problems: Problems) -> Iterator[Rows]:
        return self._distinct("contents", title=True)

    def queries(self, problems: Problems) -> Iterator[Rows]:
        return self._distinct("query", title=False)

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        return iter(())

    def labels(self, problems: Problems) -> Iterator[Rows]:
        def parse(text: str) -> Row:
            row = _complete(text)
            return _digest(row["query"]), _digest(row["contents"]), row["false_logit"], row["true_logit"]

        return _batches(self.path, self.shown, parse, 4, problems)


def _complete(text: str) -> dict[str, Any]:
    """A row with all four keys, its logits as numbers."""
    row = _json(text)
    return {
        "query": _string(row, "query"),
        "contents": _string(row, "contents"),
        "false_logit": _logit(row.get("false_logit")),
        "true_logit": _logit(row.get("true_logit")),
    }


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]
