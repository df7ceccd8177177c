"""The soft labels that InRanker's authors published, in their two formats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np

from inranker_flow.artifacts.hashing import HashSet, hash_rows
from inranker_flow.corpora.problems import Problems, Rows
from inranker_flow.corpora.sources.lines import BadLine, batches, json_object, string
from inranker_flow.corpora.sources.rows import Row, Split
from inranker_flow.errors import UserError
from inranker_flow.storage import uris


def _logit(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadLine(f"logit {value!r} is not a finite number")
    return number


class InRankerMsmarco:
    """`InRanker_msmarco.tsv`: true logit, false logit, query id, document id (its own documentation says otherwise).

    The values are kept as they are, uncentred (unicamp-dl/InRanker, training/utils.py).
    """

    unit = "bytes"

    def __init__(self, uri: str) -> None:
        self.path, self.shown = uris.local_copy(uri), uri
        if not self.path.is_file():
            raise UserError(
                f"{uri}: not a file; give the .tsv with true logit, false logit, query id and document id",
                code="labels-form",
            )
        self.total = self.path.stat().st_size

    def labels(self, problems: Problems) -> Iterator[Rows]:
        return batches(self.path, self.shown, self._parse, 4, problems)

    @staticmethod
    def _parse(text: str) -> Row | None:
        parts = text.rstrip("\r\n").split("\t")
        if len(parts) != 4:
            raise BadLine("not the four columns positive_score, negative_score, query_id, doc_id")
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
    not_evaluated = ""
    judged_together: tuple[str, ...] = ()

    def __init__(self, uri: str) -> None:
        self.path, self.shown = uris.local_copy(uri), uri
        if not self.path.is_file():
            raise UserError(
                f"{uri}: not a file; give the .jsonl with query, contents, true_logit and false_logit",
                code="labels-form",
            )
        self.total = self.path.stat().st_size

    def _distinct(self, key: str, title: bool) -> Iterator[Rows]:
        """Yield the distinct texts under ``key``. Unreadable lines are reported once, by :meth:`labels`."""
        seen = HashSet()

        def parse(text: str) -> Row:
            return (_complete(text)[key],)

        for rows in batches(self.path, self.shown, parse, 1, Problems("repair")):
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

    def judged(self, split: Split) -> tuple[str, ...]:
        return ()

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        return iter(())

    def labels(self, problems: Problems) -> Iterator[Rows]:
        def parse(text: str) -> Row:
            row = _complete(text)
            return _digest(row["query"]), _digest(row["contents"]), row["false_logit"], row["true_logit"]

        return batches(self.path, self.shown, parse, 4, problems)


def _complete(text: str) -> dict[str, Any]:
    """Return a row with all four keys, its logits as numbers."""
    row = json_object(text)
    return {
        "query": string(row, "query"),
        "contents": string(row, "contents"),
        "false_logit": _logit(row.get("false_logit")),
        "true_logit": _logit(row.get("true_logit")),
    }


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]
