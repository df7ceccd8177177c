"""The tables of a corpus as they are written: its rows, and beside passages the document of each."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.hashing import Fingerprint, hash_rows
from inranker_flow.corpora.problems import Rows


class CorpusWriter:
    """Writes corpus.parquet below ``folder``, and passages.parquet where rows say which document they are of."""

    def __init__(self, folder: Path, fingerprint: Fingerprint) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._passages: tables.TableWriter | None = None
        #: First words of the hashes of the documents of passages.
        self._documents = [np.empty(0, np.uint64)]

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self._corpus = self._open.enter_context(
            tables.TableWriter(self._folder / tables.CORPUS.filename, tables.CORPUS)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    @property
    def rows(self) -> int:
        return self._corpus.rows

    @property
    def documents(self) -> np.ndarray:
        """Sorted first words of the hashes of the documents of passages."""
        return np.unique(np.concatenate(self._documents))

    def write(self, rows: Rows) -> None:
        """Append columns doc_id, title, text, and perhaps the document's id."""
        ids, titles, bodies, *documents = rows.columns
        if not ids:
            return
        self._fingerprint.add("corpus", hash_rows(ids, titles, bodies))
        self._corpus.write({"doc_id": ids, "title": titles, "text": bodies})
        if not documents:
            return
        if self._passages is None:
            path = self._folder / tables.PASSAGES.filename
            self._passages = self._open.enter_context(tables.TableWriter(path, tables.PASSAGES))
        self._passages.write({"doc_id": ids, "document_id": documents[0]})
        self._fingerprint.add("passages", hash_rows(ids, documents[0]))
        self._documents.append(np.unique(hash_rows(documents[0])[:, 0]))
