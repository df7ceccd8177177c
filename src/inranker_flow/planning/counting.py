"""What a collection holds, by reading bounded parts of its files, or by what ir_datasets knows without a download."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.corpora.passage import default_text
from inranker_flow.corpora.sources import FORMS, beir, irdatasets, layout, published, sample
from inranker_flow.corpora.sources.demo import open_demo
from inranker_flow.corpora.sources.lines import BadLine
from inranker_flow.corpora.sources.rows import Row, Split
from inranker_flow.errors import UserError
from inranker_flow.planning.parts import PART, PARTS, Lines, read_lines
from inranker_flow.storage import uris
from inranker_flow.storage.listing import FileInfo

#: Texts that are kept of a collection.
SAMPLE = 400

#: Mean words of a document (BEIR, arXiv 2104.08663, table 1), where nothing can be read before a download.
WORDS = {
    "msmarco": 56, "trec-covid": 161, "nfcorpus": 232, "nq": 79, "hotpotqa": 46, "fiqa": 132, "arguana": 167,
    "webis-touche2020": 292, "cqadupstack": 129, "quora": 11, "dbpedia-entity": 50, "scidocs": 176, "fever": 85,
    "climate-fever": 85, "scifact": 214, "bioasq": 203, "signal1m": 14, "trec-news": 635, "robust04": 466,
}  # fmt: skip
ASSUMED_WORDS, QUERY_WORDS, CHARACTERS = 100, 9, 6.0


@dataclass(frozen=True)
class Counted:
    """``positives``: relevant judgements of the training queries; ``published``: soft labels that come with it; ``logged``:
    queries that people asked and that are wanted.

    ``passages`` and ``queries`` are samples of texts, perhaps none; ``passage_characters`` (mean) is known in any case.
    ``notes`` say what is estimated or assumed.
    """

    name: str
    documents: int
    train_queries: int = 0
    positives: int = 0
    test_queries: int = 0
    published: int = 0
    logged: int = 0
    passages: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    passage_characters: float = ASSUMED_WORDS * CHARACTERS
    query_characters: float = QUERY_WORDS * CHARACTERS
    notes: tuple[str, ...] = ()


def count(corpus: CorpusConfig, config: PrepareConfig) -> Counted:
    """Count ``corpus`` after the limits of ``config``. Raises :class:`UserError` where there is no collection."""
    scheme, _, rest = corpus.uri.partition(":")
    if scheme == "ir_datasets":
        found = _known(corpus, rest)
    elif scheme == "demo":
        with open_demo(rest, corpus) as source:
            found = _stored(replace(corpus, uri=str(source.folder)))
    elif scheme == "hf":
        raise UserError(
            f"{corpus.uri}: cannot be counted before it is downloaded; give a local copy or s3://", code="cannot-count"
        )
    elif scheme in published.TEXTS:
        found = _labelled_texts(corpus, scheme, rest)
    else:
        found = _stored(corpus)
    if corpus.labels:
        labels, note = _published(corpus.labels)
        found = replace(found, published=labels, notes=(*found.notes, *note))
    return _limited(replace(found, logged=_logged(corpus, found)), config)


def _logged(corpus: CorpusConfig, found: Counted) -> int:
    """Return the queries that people asked, as far as they are wanted: at most so many are different ones."""
    if corpus.queries == "synthetic":
        return 0
    there = max(found.logged, 0)
    if corpus.log:
        file = _one(corpus.log)
        there = _open(file).metadata.num_rows if layout.form(corpus.log) == "parquet" else read_lines(file).total
    return _least(there, corpus.log_queries)


def _limited(found: Counted, config: PrepareConfig) -> Counted:
    train = _least(found.train_queries, config.max_train_queries)
    limits = {
        "max_documents": (found.documents, "documents"),
        "max_train_queries": (found.train_queries, "train queries"),
        "max_test_queries": (found.test_queries, "test queries"),
    }
    cut = [
        f"{found.name}: {getattr(config, name):,} of its {there:,} {what} are taken (corpus.{name})"
        for name, (there, what) in limits.items()
        if _least(there, getattr(config, name)) < there
    ]
    return replace(
        found,
        notes=(*found.notes, *cut),
        documents=_least(found.documents, config.max_documents),
        train_queries=train,
        positives=round(found.positives * train / max(found.train_queries, 1)),
        published=round(found.published * train / found.train_queries) if found.train_queries else found.published,
        test_queries=_least(found.test_queries, config.max_test_queries),
    )


def _least(number: int, limit: int) -> int:
    return min(number, limit) if limit else number


# --- ir_datasets ------------------------------------------------------------------------------------------------------


def _known(corpus: CorpusConfig, name: str) -> Counted:
    dataset = irdatasets.look_up(name)
    known: Mapping[str, Any] = dataset.metadata() or {}
    documents = (known.get("docs") or {}).get("count")
    if not documents:
        raise UserError(
            f"{corpus.uri}: ir_datasets does not say how many documents it has; give a BEIR folder or s3://",
            code="cannot-count",
        )
    judged = known.get("qrels") or {}
    # Not every query is judged, and a query may be judged often: the smaller number is the better guess.
    queries = min((known.get("queries") or {}).get("count", 0), judged.get("count", 0))
    values = ((judged.get("fields") or {}).get("relevance") or {}).get("counts_by_value") or {}
    relevant = sum(count for value, count in values.items() if int(value) > 0)
    training = irdatasets.split_of(name, corpus) == "train"
    words = next((WORDS[part] for part in name.replace("-passage", "").split("/") if part in WORDS), 0)
    about = "BEIR's table 1" if words else "assumed"
    return Counted(
        corpus.name,
        documents,
        train_queries=queries if training else 0,
        positives=relevant if training else 0,
        test_queries=0 if training else queries,
        passage_characters=(words or ASSUMED_WORDS) * CHARACTERS,
        notes=(
            f"{corpus.name}: counted by ir_datasets' catalogue, nothing downloaded; {words or ASSUMED_WORDS} words a "
            f"document ({about})",
            f"a word has {CHARACTERS:g} characters, a query {QUERY_WORDS} words (assumed where texts are not here)",
        ),
    )


# --- files ------------------------------------------------------------------------------------------------------------


def _stored(corpus: CorpusConfig) -> Counted:
    """Return a folder or a file of documents, on a disk or in S3."""
    uri = corpus.uri.rstrip("/")
    path = uris.local_path(uri)
    single = not uri.startswith("s3://") and path.is_file()
    files = {} if single else {each.uri.removeprefix(f"{_root(uri)}/"): each for each in uris.look(uri)}
    if single or (len(files) == 1 and next(iter(files.values())).uri == uri):
        whole = FileInfo(str(path), path.stat().st_size, "") if single else next(iter(files.values()))
        uri, _, name = uri.rpartition("/")
        if not layout.is_documents(name):
            raise UserError(f"{corpus.uri}: not a collection; {FORMS}", code="collection-form")
        files, found = {name: whole}, layout.Layout((name,), texts=not layout.is_table(name))
    elif not files:
        raise UserError(f"{corpus.uri}: no such file or folder; correct the address", code="not-found")
    else:
        sizes = {name: each.size for name, each in files.items()}
        found = layout.find(sizes, uri, corpus, remedy="; correct the address")
    if not sample.is_plain(corpus, found):
        return _sampled(corpus, uri, files, found)
    if layout.form(found.documents[0]) == "parquet":
        return _parquet(corpus, files, found)
    every = [read_lines(files[name]) for name in found.documents]
    lines = Lines(
        [run for each in every for run in each.runs],
        sum(each.total for each in every),
        all(each.exact for each in every),
    )
    texts = [" ".join(filter(None, (_text(row, "title"), _text(row, "text")))) for row in _rows(lines.sample)]
    if not lines.total or not texts:
        raise UserError(
            f"{files[found.documents[0]].uri}: no row of JSON is found in it; it must hold one document a line",
            code="collection-row",
        )
    asked, queries = _queries(files, found)
    train, positives, train_exact = _judged(files, found, "train")
    test, _, test_exact = _judged(files, found, "test")
    exact = lines.exact and train_exact and test_exact
    return Counted(
        corpus.name,
        lines.total,
        train_queries=train,
        positives=positives,
        test_queries=test,
        logged=asked - train - test,
        passages=tuple(texts[:SAMPLE]),
        queries=tuple(queries[:SAMPLE]),
        passage_characters=_mean(texts, ASSUMED_WORDS * CHARACTERS),
        query_characters=_mean(queries, QUERY_WORDS * CHARACTERS),
        notes=()
        if exact
        else (f"{corpus.name}: counted from parts of its files ({PARTS} x {PART >> 20} MiB of each)",),
    )


def _sampled(corpus: CorpusConfig, shown: str, files: Mapping[str, FileInfo], found: layout.Layout) -> Counted:
    """Return what the beginnings of the documents' files say of all: of tables that `fields` reads, and of files of text."""
    read = sample.read(corpus, shown, files, found)
    passages = [default_text(*each) for each in read.passages]
    if not passages:
        raise UserError(f"{corpus.uri}: no document is found in it; give one that holds some", code="collection-empty")
    asked, queries = _queries(files, found)
    train, positives, _ = _judged(files, found, "train")
    test, _, _ = _judged(files, found, "test")
    return Counted(
        corpus.name,
        round(read.rows / read.share),
        train_queries=train,
        positives=positives,
        test_queries=test,
        logged=asked - train - test,
        passages=tuple(passages[:: max(len(passages) // SAMPLE, 1)][:SAMPLE]),
        queries=tuple(queries[:SAMPLE]),
        passage_characters=_mean(passages, ASSUMED_WORDS * CHARACTERS),
        query_characters=_mean(queries, QUERY_WORDS * CHARACTERS),
        notes=()
        if read.share == 1
        else (f"{corpus.name}: counted from the beginning of its documents ({read.share:.0%})",),
    )


def _queries(files: Mapping[str, FileInfo], found: layout.Layout) -> tuple[int, list[str]]:
    """Return the queries of a folder, judged or not, and texts of some."""
    every = [read_lines(files[name]) for name in found.queries if layout.form(name) == "jsonl"]
    return sum(each.total for each in every), [_text(row, "text") for each in every for row in _rows(each.sample)]


def _root(uri: str) -> str:
    return uri if uri.startswith("s3://") else str(uris.local_path(uri))


def _mean(texts: Sequence[str], otherwise: float) -> float:
    return sum(map(len, texts)) / len(texts) if texts else otherwise


def _some(lines: Sequence[bytes]) -> Sequence[bytes]:
    return lines[: 5 * SAMPLE : max(len(lines) // SAMPLE, 1)] if len(lines) > 5 * SAMPLE else lines[:SAMPLE]


def _rows(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return the JSON objects among ``lines``: what is broken is `prepare_corpus`' to tell."""
    found = []
    for line in _some(lines):
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return value.strip() if isinstance(value, str) else ""


def _judged(files: Mapping[str, FileInfo], found: layout.Layout, split: Split) -> tuple[int, int, bool]:
    """Return queries of a split, their relevant judgements, and whether all of its files were read."""
    queries = relevant = 0
    exact = True
    for name in found.of(split):
        if layout.form(name) == "parquet":
            rows = _columns(files[name], beir.QUERY_NAMES, beir.GRADE_NAMES)
            queries += len({query for query, _ in rows})
            relevant += sum((_number(str(grade)) or 0) > 0 for _, grade in rows)
            continue
        lines = read_lines(files[name])
        counted = _judged_lines(lines, beir.judgement_parser(layout.form(name)))
        queries, relevant, exact = queries + counted[0], relevant + counted[1], exact and lines.exact
    return queries, relevant, exact


def _judged_lines(lines: Lines, parse: Callable[[str], Row | None]) -> tuple[int, int]:
    # A query's judgements stand together, so the queries of each part are counted by themselves.
    queries = relevant = rows = 0
    for run in lines.runs:
        judged = []
        for line in run:
            try:
                judged.append(parse(line.decode("utf-8-sig")))
            except (BadLine, UnicodeDecodeError):  # what is broken is `prepare_corpus`' to tell
                continue
        good = [row for row in judged if row]
        queries += len({row[0] for row in good})
        relevant += sum(row[2] > 0 for row in good)
        rows += len(good)
    scale = 1.0 if lines.exact else lines.total / max(rows, 1)
    return round(queries * scale), round(relevant * scale)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


# --- Parquet ----------------------------------------------------------------------------------------------------------


class _Stored(io.RawIOBase):
    """A stored file that is read in the parts that are asked for."""

    def __init__(self, file: FileInfo) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._file.size - self._at, 0)
        length = left if size is None or size < 0 else min(size, left)
        data = uris.read_part(self._file.uri, self._at, length) if length else b""
        self._at += len(data)
        return data


def _parquet(corpus: CorpusConfig, files: Mapping[str, FileInfo], found: layout.Layout) -> Counted:
    """Return rows and mean lengths from the footers; the judgements' split is read where it is said."""
    documents, characters = _footers([files[name] for name in found.documents], ("title", "text"))
    asked = [files[name] for name in found.queries if layout.form(name) == "parquet"]
    queries, query_characters = _footers(asked, ("text",))
    train = test = positives = 0
    if found.shared:
        judged = [row for name in found.shared for row in _columns(files[name], beir.QUERY_NAMES, ("split",))]
        origins = dict(
            row for each in asked for row in _columns(each, ("query_id", "_id", "query-id", "id"), ("origin",))
        )
        trained = [
            query for query, split in judged if (split or _SPLITS.get(origins.get(query) or "")) == corpus.train_split
        ]
        train, positives = len(set(trained)), len(trained)
        test = len({query for query, _ in judged}) - train
    else:
        train, positives, _ = _judged(files, found, "train")
        test, _, _ = _judged(files, found, "test")
    return Counted(
        corpus.name,
        documents,
        train_queries=train,
        positives=positives,
        test_queries=test,
        passage_characters=characters or ASSUMED_WORDS * CHARACTERS,
        query_characters=query_characters if queries else QUERY_WORDS * CHARACTERS,
        notes=(f"{corpus.name}: lengths from Parquet's footers",),
    )


_SPLITS = {"supervised": "train", "test": "test"}


def _open(file: FileInfo) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(pa.PythonFile(_Stored(file), mode="r"))
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file.uri}: not a readable Parquet file: {reason}; write or fetch it again", code="collection-damaged"
        ) from error


def _footers(files: Sequence[FileInfo], columns: Sequence[str]) -> tuple[int, float]:
    """Return rows of all ``files``, and the mean bytes of ``columns`` together in a row."""
    every = [_footer(each, columns) for each in files]
    rows = sum(count for count, _ in every)
    return rows, sum(count * mean for count, mean in every) / max(rows, 1)


def _footer(file: FileInfo, columns: Sequence[str]) -> tuple[int, float]:
    """Return rows, and the mean bytes of ``columns`` together in a row (four of each value are its length)."""
    metadata = _open(file).metadata
    size = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.path_in_schema in columns:
                size += max(column.total_uncompressed_size - 4 * column.num_values, 0)
    return metadata.num_rows, size / max(metadata.num_rows, 1)


def _columns(file: FileInfo, spellings: Sequence[str], optional: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return values of an id and of a column that may be missing."""
    opened = _open(file)
    there = opened.schema_arrow.names
    ids = next((name for name in spellings if name in there), None)
    if ids is None:
        raise UserError(f"{file.uri}: has no column {spellings[0]}", code="collection-column")
    other = next((name for name in optional if name in there), None)
    table = opened.read(columns=list(filter(None, (ids, other))))
    values = table.column(other).to_pylist() if other else [None] * table.num_rows
    return list(zip(map(str, table.column(ids).to_pylist()), values, strict=True))


# --- published labels -------------------------------------------------------------------------------------------------

#: Lines of InRanker_msmarco.tsv (unicamp-dl/InRanker, docs/training.md).
MSMARCO_LABELS = 12_800_000


def _published(uri: str) -> tuple[int, tuple[str, ...]]:
    """Return soft labels in a file, and what is assumed about it."""
    rest = uri.partition(":")[2]
    if rest.startswith("hf://"):
        return MSMARCO_LABELS, (f"{uri}: {MSMARCO_LABELS:,} labels (its documentation), nothing downloaded",)
    lines = read_lines(_one(rest))
    return lines.total, () if lines.exact else (f"{uri}: counted from parts",)


def _one(uri: str) -> FileInfo:
    if uri.startswith("s3://"):
        found = [each for each in uris.list_files(uri) if each.uri == uri]
    else:
        path = uris.local_path(uri)
        found = [FileInfo(str(path), path.stat().st_size, "")] if path.is_file() else []
    if not found:
        raise UserError(f"{uri}: no such file; correct the address", code="not-found")
    return found[0]


def _labelled_texts(corpus: CorpusConfig, scheme: str, uri: str) -> Counted:
    """Return texts and labels in one file; its rows stand by query."""
    if uri.startswith("hf://"):
        raise UserError(
            f"{corpus.uri}: cannot be counted before it is downloaded; give a local copy or s3://", code="cannot-count"
        )
    file = _one(uri)
    lines = read_lines(file)
    parse, form = published.TEXTS[scheme]
    rows, read = [], 0
    for line in _some(lines.sample):
        try:
            pairs = parse(line.decode("utf-8-sig"))
        except (BadLine, ValueError):
            continue
        read += 1
        rows += [(query, passage) for query, passage, *_ in pairs]
    if not rows:
        raise UserError(f"{file.uri}: no row of JSON with {form} is found in it", code="collection-row")
    labels = round(lines.total * len(rows) / read)
    return Counted(
        corpus.name,
        labels,
        published=labels,
        passages=tuple(text for _, text in rows[:SAMPLE]),
        queries=tuple(query for query, _ in rows[:SAMPLE]),
        passage_characters=_mean([text for _, text in rows], ASSUMED_WORDS * CHARACTERS),
        query_characters=_mean([query for query, _ in rows], QUERY_WORDS * CHARACTERS),
        notes=(f"{corpus.name}: at most as many documents as labels; texts that repeat are not known before",),
    )
