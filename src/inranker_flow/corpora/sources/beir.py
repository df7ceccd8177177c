"""Collections in BEIR's layout: a folder of JSON lines and judgements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from inranker_flow.config import CorpusConfig
from inranker_flow.corpora.problems import Problems, Rows
from inranker_flow.corpora.sources.lines import BadLine, batches, json_object, string, whole
from inranker_flow.corpora.sources.rows import Row, Split
from inranker_flow.errors import UserError


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
        names = [path.name.removesuffix(".gz") for path in (folder / "qrels").glob("*.tsv*")]
        there = sorted({name.removesuffix(".tsv") for name in names if name.endswith(".tsv")})
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
        return batches(self.corpus, self._name(self.corpus), _document, 3, problems)

    def queries(self, problems: Problems) -> Iterator[Rows]:
        if self.query_file:
            yield from batches(self.query_file, self._name(self.query_file), _query, 2, problems)

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        if path := self._find(f"qrels/{self.splits[split]}.tsv"):
            yield from batches(path, self._name(path), _JudgementLine(), 3, problems)


def _document(text: str) -> Row:
    row = json_object(text)
    return string(row, "_id"), string(row, "title", ""), string(row, "text", "")


def _query(text: str) -> Row:
    row = json_object(text)
    return string(row, "_id"), string(row, "text", "")


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
            raise BadLine("neither `query-id corpus-id score` nor `query 0 document relevance`")
        query_id, doc_id, relevance = parts[0], parts[-2], parts[-1]
        if first and not re.fullmatch(r"\s*[-+]?[0-9.]+\s*", relevance) and "id" in query_id.lower():
            return None
        return query_id, doc_id, whole(relevance)
