"""Soft labels that come with their collection: those that InRanker's authors published, and a team's own.

One score s of a pair, as rerankers with one output give it, is the pair of logits (-s/2, s/2), as everywhere here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np

from inranker_flow.artifacts.hashing import HashSet, hash_rows
from inranker_flow.corpora.beside import local_file
from inranker_flow.corpora.problems import BadCollection, Problems, Rows
from inranker_flow.corpora.sources.beir import DOC_NAMES, QUERY_NAMES
from inranker_flow.corpora.sources.delimited import Delimited
from inranker_flow.corpora.sources.lines import BadLine, batches, json_object, string
from inranker_flow.corpora.sources.rows import Row, Split, as_columns
from inranker_flow.errors import UserError
from inranker_flow.storage import uris

#: A pair with its label: query, passage, false and true logit.
Labelled = tuple[str, str, float, float]

#: How rows of one pair call the passage, and the score.
_PASSAGE_NAMES = ("passage", "document", "doc", "contents", "text", "sentence2", "response", "answer")
_SCORE_NAMES = ("score", "label", "similarity_score", "teacher_score", "logit")


def _logit(value: Any, what: str = "logit") -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadLine(f"{what} {str(value)[:40]!r} is not a finite number")
    return number


def _halves(score: Any) -> tuple[float, float]:
    """Return the logits of one score."""
    half = _logit(score, "score") / 2
    return -half, half


class InRankerMsmarco:
    """`InRanker_msmarco.tsv`: true logit, false logit, query id, document id (its own documentation says otherwise).

    The values are kept as they are, uncentred (unicamp-dl/InRanker, training/utils.py).
    """

    unit = "bytes"

    def __init__(self, uri: str) -> None:
        self.path, self.shown = local_file(uri), uri
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


class OwnLabels:
    """Soft labels of the pairs of a collection, by their ids: ``soft-labels:FILE`` as the setting `labels`.

    JSON lines, or columns with a header between tabs (.tsv) or commas (.csv): a query id, a document id, and either a
    `score` or `false_logit` and `true_logit`. The ids may have the names that judgements give them.
    """

    unit = "bytes"

    def __init__(self, uri: str) -> None:
        self.path, self.shown = local_file(uri), uri
        self.total = self.path.stat().st_size

    def labels(self, problems: Problems) -> Iterator[Rows]:
        suffixes = {each.lower() for each in self.path.suffixes}
        if suffixes & {".jsonl", ".ndjson"}:
            return batches(self.path, self.shown, _by_id, 4, problems)
        table = Delimited(self.path, self.shown, "" if ".csv" in suffixes else "\t", problems)
        names = [name.lower() for name in table.names]
        try:
            _labelled(dict.fromkeys(names, "0"), QUERY_NAMES, DOC_NAMES)
        except BadLine as error:
            raise BadCollection(
                f"{self.shown}: its first line {error} (it has: {', '.join(names)[:200]}); name the columns query_id, doc_id "
                "and score",
                code="collection-column",
            ) from error
        return table.batches(lambda cells: _labelled(dict(zip(names, cells, strict=True)), QUERY_NAMES, DOC_NAMES), 4)


def _by_id(text: str) -> Row:
    row = json_object(text)
    ids = {name: str(row[name]) for name in (*QUERY_NAMES, *DOC_NAMES) if isinstance(row.get(name), int)}
    return _labelled({**row, **ids}, QUERY_NAMES, DOC_NAMES)


def _labelled(row: dict[str, Any], query_names: Sequence[str], passage_names: Sequence[str]) -> Labelled:
    """Return the pair that a row with one label holds."""
    query, passage = (_first(row, names) for names in (query_names, passage_names))
    if "true_logit" in row or "false_logit" in row:
        return query, passage, _logit(row.get("false_logit")), _logit(row.get("true_logit"))
    score = next((row[name] for name in _SCORE_NAMES if name in row), None)
    if score is None:
        raise BadLine("has no 'score' (nor 'false_logit' and 'true_logit')")
    return query, passage, *_halves(score)


def _first(row: dict[str, Any], names: Sequence[str]) -> str:
    name = next((name for name in names if row.get(name) is not None), names[0])
    return string(row, name)


class LabelledTexts:
    """A collection that is pairs of texts with their labels, nothing else, in the form of ``scheme``.

    Ids are digests of the text, so a text that occurs in many rows is one document or query.
    """

    unit = "bytes"
    labelled_origin = "synthetic"
    not_evaluated = ""
    judged_together: tuple[str, ...] = ()

    def __init__(self, uri: str, scheme: str) -> None:
        self.path, self.shown = uris.local_copy(uri), uri
        self._parse, form = TEXTS[scheme]
        tables = {".csv", ".tsv", ".parquet"} & {each.lower() for each in self.path.suffixes}
        if not self.path.is_file() or tables:
            what = f"a {tables.pop()} file" if tables else "not a file"
            raise UserError(f"{uri}: {what}; give the .jsonl with {form}", code="labels-form")
        self.total = self.path.stat().st_size

    def _pairs(self, problems: Problems) -> Iterator[Rows]:
        """Yield columns query, passage, false and true logit: as many rows of a line as it has pairs."""
        for rows in batches(self.path, self.shown, lambda text: (self._parse(text),), 1, problems):
            found = [(line, pair) for line, pairs in zip(rows.lines, rows.columns[0], strict=True) for pair in pairs]
            yield Rows(self.shown, [line for line, _ in found], as_columns([pair for _, pair in found], 4), rows.amount)

    def _distinct(self, column: int, title: bool) -> Iterator[Rows]:
        """Yield the distinct texts of a column. Unreadable lines are reported once, by :meth:`labels`."""
        seen = HashSet()
        for rows in self._pairs(Problems("repair")):
            new = seen.add(hash_rows(rows.columns[column])) if rows.lines else np.empty(0, bool)
            texts = [text for text, is_new in zip(rows.columns[column], new, strict=True) if is_new]
            lines = [line for line, is_new in zip(rows.lines, new, strict=True) if is_new]
            ids = [_digest(text) for text in texts]
            columns = (ids, [""] * len(ids), texts) if title else (ids, texts)
            yield Rows(self.shown, lines, columns, rows.amount)

    def documents(self, problems: Problems) -> Iterator[Rows]:
        return self._distinct(1, title=True)

    def queries(self, problems: Problems) -> Iterator[Rows]:
        return self._distinct(0, title=False)

    def judged(self, split: Split) -> tuple[str, ...]:
        return ()

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        return iter(())

    def labels(self, problems: Problems) -> Iterator[Rows]:
        for rows in self._pairs(problems):
            query, passage, *logits = rows.columns
            ids = list(map(_digest, query)), list(map(_digest, passage))
            yield Rows(rows.file, rows.lines, (*ids, *logits), rows.amount)


def inranker_row(text: str) -> list[Labelled]:
    """Return the pair in a line of `inpars_beir_dataset.jsonl`: query, contents, true_logit, false_logit, as text only."""
    row = json_object(text)
    query, contents = string(row, "query"), string(row, "contents")
    return [(query, contents, _logit(row.get("false_logit")), _logit(row.get("true_logit")))]


def own_rows(text: str) -> list[Labelled]:
    """Return the pairs in a line of a team's own: one pair (query, passage, score), or a query with its passages.

    The latter as FlagEmbedding and sentence-transformers write them: `query`, `pos`, `neg`, and `pos_scores` and
    `neg_scores`, or `scores` of all passages in this order.
    """
    row = json_object(text)
    if not ("pos" in row or "neg" in row):
        return [_labelled(row, ("query", "question", "sentence1"), _PASSAGE_NAMES)]
    query = string(row, "query")
    sides = [_texts(row, side) for side in ("pos", "neg")]
    if "scores" in row:
        scores = _scores(row, "scores", sum(map(len, sides)))
    else:
        scores = [score for side, texts in zip(("pos", "neg"), sides, strict=True) if texts
                  for score in _scores(row, f"{side}_scores", len(texts))]  # fmt: skip
    return [(query, passage, *_halves(score)) for passage, score in zip(chain(*sides), scores, strict=True)]


def _texts(row: dict[str, Any], key: str) -> list[str]:
    found = row.get(key) or []
    found = [found] if isinstance(found, str) else found
    if not (isinstance(found, list) and all(isinstance(each, str) for each in found)):
        raise BadLine(f"{key!r} is no list of texts")
    return found


def _scores(row: dict[str, Any], key: str, count: int) -> list[Any]:
    found = row.get(key)
    if not isinstance(found, list) or len(found) != count:
        there = f"{len(found)} of them" if isinstance(found, list) else "no list"
        raise BadLine(f"{key!r} must be {count} scores, one for each passage, and is {there}")
    return found


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


#: Scheme -> the parser of a line and what a line holds.
TEXTS: dict[str, tuple[Callable[[str], Sequence[Labelled]], str]] = {
    "inranker-beir": (inranker_row, "query, contents, true_logit and false_logit"),
    "soft-labels": (own_rows, "query, passage and score, or query, pos, neg and scores"),
}
