"""Whether the files that a collection's settings name beside it (a log, soft labels, run files) hold what they are for.

They are read whole by `prepare_corpus`, before any GPU works. Their beginnings say sooner that one is of another kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from inranker_flow.config.sections import CorpusConfig
from inranker_flow.corpora import query_log, run_files
from inranker_flow.corpora.problems import BadCollection, Problems, Rows
from inranker_flow.corpora.sources import StoredCollection, label_source
from inranker_flow.errors import UserError
from inranker_flow.storage import uris

#: Files up to this size are looked into whole; of larger ones, those on a disk, so many batches of rows.
_LOOK, _BATCHES = 2**20, 4


def check_log(corpus: CorpusConfig) -> None:
    """Refuse a log in another form, without a column of queries, or of which the beginning holds no query."""
    if _whole(corpus.log) is None:
        return
    if not any(
        any(map(str.isalnum, text))
        for rows in _begun(query_log.read_rows(corpus.log, Problems("repair")))
        for text in rows.columns[0]
    ):
        raise BadCollection(f"{corpus.log}: holds no query; give one query a line, or another file", code="log-empty")


def check_labels(corpus: CorpusConfig, file: str) -> None:
    """Refuse soft labels by ids in another form, without a row, or for queries of which the collection has none."""
    if (whole := _whole(file)) is None:
        return
    rows = label_source(corpus.labels).labels(Problems("repair"))
    _check_rows(corpus, file, rows, whole, "labels-unusable", "soft label")


def check_run(corpus: CorpusConfig, uri: str) -> None:
    """Refuse a run file in another form, without a row, or for queries of which the collection has none."""
    if (whole := _whole(uri)) is None:
        return
    _check_rows(corpus, uri, run_files.read_rows(uri, Problems("repair")), whole, "run-incomplete", "row of a run")


def _check_rows(corpus: CorpusConfig, uri: str, found: Iterable[Rows], whole: bool, code: str, what: str) -> None:
    asked = {query_id for rows in (found if whole else _begun(found)) for query_id in rows.columns[0]}
    if not asked:
        raise BadCollection(
            f"{uri}: holds no {what} that can be read; fill it, or take it out of the settings", code=code
        )
    known = _queries(corpus) if whole else set()
    if known and not asked & known:
        raise BadCollection(
            f"{uri}: no {what} is about a query of {corpus.uri} (it names {min(asked)[:40]!r}, they are like "
            f"{min(known)[:40]!r}); give the file of this collection",
            code=code,
        )


def _begun(found: Iterable[Rows]) -> Iterator[Rows]:
    return islice(found, _BATCHES)


def _whole(uri: str) -> bool | None:
    """Return whether a file is small enough to be read whole; None for one that would have to be fetched first."""
    if uri.startswith("hf://"):
        return None
    if uri.startswith("s3://"):
        return True if sum(each.size for each in uris.list_files(uri)) <= _LOOK else None
    return Path(uris.local_path(uri)).stat().st_size <= _LOOK


def _queries(corpus: CorpusConfig) -> set[str]:
    """Return the ids of the queries of a collection on a disk, where they are soon read; else none."""
    folder = None if ":" in corpus.uri else uris.local_path(corpus.uri)
    if folder is None or not folder.is_dir():
        return set()
    try:
        source = StoredCollection(folder, corpus.uri, corpus)
        if sum((folder / name).stat().st_size for name in source.layout.queries) > _LOOK:
            return set()
        return {query_id for rows in source.queries(Problems("repair")) for query_id in rows.columns[0]}
    except UserError:  # told by the check of the collection
        return set()
