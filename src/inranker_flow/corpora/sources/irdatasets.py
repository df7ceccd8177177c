"""Collections that the library ir_datasets knows by id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from inranker_flow.config import CorpusConfig
from inranker_flow.corpora.problems import Problems, Rows
from inranker_flow.corpora.sources.lines import BadLine, whole
from inranker_flow.corpora.sources.rows import ROWS, Row, Split, as_columns
from inranker_flow.errors import UserError


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
                except BadLine as error:
                    problems.add(error.kind, self.shown, line, str(error))
                else:
                    lines.append(line)
                    rows.append(row)
            yield Rows(self.shown, lines, as_columns(rows, width), len(chunk))
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
        return self._rows(items, lambda qrel: (qrel.query_id, qrel.doc_id, whole(str(qrel.relevance))), 3, problems)
