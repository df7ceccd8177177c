"""The beginnings of a collection's files: enough to say what a collection holds before it is fetched or read whole."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inranker_flow.config.sections import CorpusConfig
from inranker_flow.corpora.passages import as_passages
from inranker_flow.corpora.problems import BadCollection, Problems
from inranker_flow.corpora.sources import layout, texts
from inranker_flow.corpora.sources.layout import Layout
from inranker_flow.corpora.sources.rows import ROWS
from inranker_flow.corpora.sources.stored import StoredCollection
from inranker_flow.storage import uris
from inranker_flow.storage.listing import FileInfo

#: Bytes of one file, and files of text, that are looked into.
PART, FILES = 8 * 2**20, 64


@dataclass(frozen=True)
class Sample:
    """``passages`` of the first documents; ``rows`` that ``share`` of the bytes hold."""

    passages: tuple[tuple[str, str], ...]
    rows: int
    share: float


def is_plain(corpus: CorpusConfig, found: Layout) -> bool:
    """Return whether the documents are JSON lines or Parquet with the usual names, each row a passage (gzip at most)."""
    names = found.documents
    usual = all(layout.form(name) in ("jsonl", "parquet") and not name.lower().endswith(".zst") for name in names)
    return usual and not (found.texts or corpus.fields or corpus.passage_tokens)


def check(corpus: CorpusConfig, shown: str, files: Mapping[str, FileInfo], found: Layout) -> None:
    """Refuse a collection whose first documents cannot be read: a column that is not there, a form without its converter."""
    if found.texts:
        texts.check_converter(found.documents, shown)
    elif not is_plain(corpus, found):
        read(corpus, shown, files, found, rows=ROWS)


def read(corpus: CorpusConfig, shown: str, files: Mapping[str, FileInfo], found: Layout, rows: int = 2**20) -> Sample:
    """Read at most about ``rows`` passages from the beginnings of the documents' files (name -> file)."""
    names = found.documents
    chosen = names[:: max(len(names) // FILES, 1)][:FILES] if found.texts else names[:1]
    with tempfile.TemporaryDirectory() as folder:
        taken = sum(_fetch(files[name], Path(folder) / name) for name in chosen)
        source = StoredCollection(Path(folder), shown, corpus, Layout(tuple(chosen), texts=found.texts))
        share = taken / max(sum(files[name].size for name in names), 1)
        passages: list[tuple[str, str]] = []
        try:
            for batch in source.documents(Problems("repair")):
                _, titles, bodies, *_ = as_passages(batch, corpus).columns
                passages += zip(titles, bodies, strict=True)
                if len(passages) >= rows:
                    break
        except BadCollection:
            if share == 1 or not passages:  # else it may be the end of what was taken of a file
                raise
    return Sample(tuple(passages), len(passages), share)


def _fetch(file: FileInfo, path: Path) -> int:
    """Write a file, or the beginning of one that can be read without its end; returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.size <= PART or layout.form(path.name) == "parquet" or layout.text_form(path.name) == "office":
        uris.download(file.uri, path)
        return file.size
    data = uris.read_part(file.uri, 0, PART)
    plain = layout.unpacked(path.name) == path.name
    path.write_bytes(data[: data.rfind(b"\n") + 1] or data if plain else data)
    return len(data)
