"""What every system reranks: the same candidates of a first stage, of the same judged test queries, with their texts."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import manifest, tables
from inranker_flow.config.sections import EvaluateConfig
from inranker_flow.corpora.documents import documents_of
from inranker_flow.corpora.passage import default_text
from inranker_flow.errors import UserError
from inranker_flow.evaluation import measures, runs
from inranker_flow.reading import WHOLE, Passages

log = logging.getLogger(__name__)


#: Between a dataset's name and that of a further first stage.
FURTHER = "@"


#: Query id -> document id -> relevance.
Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class JudgedSet:
    """The judged test queries of one dataset and their candidates."""

    #: With ``@NAME`` for the candidates of a further first stage (`retrieval.also`).
    dataset: str
    #: query id -> document id -> relevance, for every judged test query.
    qrels: dict[str, dict[str, int]]
    #: The first stage's run (`tables.RUN`), sorted by query and rank.
    run: pa.Table
    #: (query, passage) to score: one for each row of ``run``, or the passages of its document one after another.
    pairs: list[tuple[str, str]]
    #: The first pair of each row of ``run``, int64.
    starts: np.ndarray
    #: Texts of the judged test queries.
    queries: dict[str, str]
    #: Candidates dropped because they are the query itself.
    dropped: int
    #: Artifact -> digest of its content.
    digests: dict[str, str]
    #: The whole text of each document of ``run``, and how ``pairs`` were cut out of it.
    documents: dict[str, str] = field(default_factory=dict)
    passages: Passages = WHOLE
    #: Of documents that were cut: for each row of ``run``, a document, its passages among the candidates, the best first.
    members: Sequence[tuple[str, ...]] = ()

    def cut(self, passages: Passages) -> JudgedSet:
        """Return the same set with the pairs of a model that reads ``passages``."""
        if passages == self.passages:
            return self
        pairs, starts = _pairs(self.run, self.members, self.queries, self.documents, passages)
        return replace(self, pairs=pairs, starts=starts, passages=passages)

    def best(self, scores: np.ndarray) -> np.ndarray:
        """Return the score of each row of ``run`` from the scores of ``pairs``: that of its best passage."""
        return np.maximum.reduceat(scores, self.starts) if self.starts.size else scores


def join(collections: Sequence[Path], candidates: Sequence[Path]) -> list[tuple[str, Path, Path]]:
    """Return (dataset, collection, candidates) in the order of ``collections``, joined by the manifests' dataset names."""
    found = _by_dataset(candidates, "candidates")
    joined = []
    for dataset, collection in _by_dataset(collections, "collections").items():
        if dataset not in found:
            raise UserError(
                f"{collection}: no candidates for dataset {dataset!r} (there are some for: "
                f"{', '.join(found) or 'none'}); run retrieve on this collection",
                code="artifact-mismatch",
            )
        joined.append((dataset, collection, found[dataset]))
    return joined


def _by_dataset(folders: Sequence[Path], what: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        dataset = manifest.read_manifest(folder).dataset
        if dataset in found:
            raise UserError(
                f"{folder}: the second of the {what} that is named {dataset!r}; give each its own name",
                code="collection-name-twice",
            )
        found[dataset] = folder
    return found


def further(candidates: Path) -> dict[str, str]:
    """Return the further first stages whose candidates are there (`retrieval.also`): kind -> what reports call it."""
    return {each["kind"]: each["name"] for each in manifest.read_manifest(candidates).details.get("also", ())}


def load(
    dataset: str, collection: Path, candidates: Path, config: EvaluateConfig, first_stage: str = ""
) -> JudgedSet | None:
    """Read one dataset with what the first stage found, or a further ``first_stage``; None when it has no judged test queries.

    Raises :class:`UserError` naming file and id where a candidate has no text, and for a run without any candidate of
    a judged query or with none that is judged relevant: nothing could be told from either.
    """
    qrels, queries = _judged_queries(collection)
    if not qrels:
        return None
    folder = candidates / (f"{tables.ALSO}/{first_stage}" if first_stage else "")
    label = f"{dataset}{FURTHER}{first_stage}" if first_stage else dataset
    found = read(label, qrels, queries, folder, collection, candidates, config)
    ids = zip(*(found.run.column(name).to_pylist() for name in ("query_id", "doc_id")), strict=True)
    _check_useful(dataset, list(ids), found.qrels, collection, folder / tables.RUN.filename)
    return found


def read(
    label: str,
    qrels: Qrels,
    queries: dict[str, str],
    folder: Path,
    collection: Path,
    candidates: Path,
    config: EvaluateConfig,
) -> JudgedSet:
    """Return what systems rerank for ``queries`` (id -> text), from the run in ``folder`` of ``candidates``.

    Raises :class:`UserError` as :func:`load` does, but for a run that says nothing.
    """
    run_file = folder / tables.RUN.filename
    rows = [
        batch.filter(pc.is_in(batch.column("query_id"), pa.array(list(qrels), pa.string())))
        for batch in tables.read_batches(tables.RUN, run_file)
    ]
    run = pa.Table.from_batches(rows, schema=tables.RUN.schema)
    run = run.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    passages = _passages(collection, pc.unique(run.column("doc_id")))
    lost = next((doc_id for doc_id in run.column("doc_id").to_pylist() if doc_id not in passages), None)
    if lost is not None:
        raise UserError(
            f"{run_file}: document {lost!r} is not in {collection / tables.CORPUS.filename}; "
            "these candidates belong to another version of the collection: run retrieve again",
            code="artifact-mismatch",
        )
    dropped = 0
    if config.drop_self:
        keep = _not_self(run, qrels, queries, passages)
        dropped = int(run.num_rows - keep.sum())
        run = run.filter(pa.array(keep))
    run, members, qrels = _counted(runs.number(run), qrels, collection, config)
    if members:
        log.info("%s: counted by document, by the best of its passages among the candidates", label)
    documents = {doc_id: default_text(*passage) for doc_id, passage in passages.items()}
    cut = Passages(config.passage_words, config.passage_stride)
    pairs, starts = _pairs(run, members, queries, documents, cut)
    digests = {
        "collection": manifest.read_manifest(collection).content,
        "candidates": manifest.read_manifest(candidates).content,
    }
    asked = {query_id: queries[query_id] for query_id in qrels}
    return JudgedSet(label, qrels, run, pairs, starts, asked, dropped, digests, documents, cut, members)


def _counted(
    run: pa.Table, qrels: Qrels, collection: Path, config: EvaluateConfig
) -> tuple[pa.Table, list[tuple[str, ...]], Qrels]:
    """Return run and judgements as they are counted, and the passages of each row where rows are documents."""
    judged = {doc_id for grades in qrels.values() for doc_id in grades}
    found = run.column("doc_id").to_pylist()
    document_of = documents_of(collection, judged.union(found))
    if not document_of or (config.by == "passage" and judged <= document_of.keys()):
        return run, [], qrels
    best: Qrels = {}
    for query_id, grades in qrels.items():
        mine = best.setdefault(query_id, {})
        for doc_id, grade in grades.items():
            document = document_of.get(doc_id, doc_id)
            mine[document] = max(grade, mine.get(document, grade))
    # The first row of a document in a query is that of its best passage.
    rows: dict[tuple[str, str], tuple[float, list[str]]] = {}
    columns = (run.column(name).to_pylist() for name in ("query_id", "doc_id", "score"))
    for query_id, doc_id, score in zip(*columns, strict=True):
        rows.setdefault((query_id, document_of.get(doc_id, doc_id)), (score, []))[1].append(doc_id)
    data = {
        "query_id": pa.array([query_id for query_id, _ in rows], pa.string()),
        "doc_id": pa.array([document for _, document in rows], pa.string()),
        "score": pa.array([score for score, _ in rows.values()], pa.float64()),
    }
    return runs.number(pa.table(data)), [tuple(passages) for _, passages in rows.values()], best


def _check_useful(
    dataset: str,
    ids: Sequence[tuple[str, str]],
    qrels: dict[str, dict[str, int]],
    collection: Path,
    run_file: Path,
) -> None:
    if not ids:
        raise UserError(
            f"{run_file}: no candidates for any of the {len(qrels)} judged test queries of "
            f"{dataset}; run retrieve again, or check that queries and documents share a language",
            code="candidates-missing",
        )
    if not any(qrels[query_id].get(doc_id, 0) > 0 for query_id, doc_id in ids):
        raise UserError(
            f"{collection / tables.QRELS.filename}: none of the {len(ids)} candidates of {dataset} is judged relevant, "
            "so every system would get 0; do the judgements name documents of this corpus? If they do, raise "
            "retrieval.test_depth",
            code="candidates-useless",
        )


def _pairs(
    run: pa.Table,
    members: Sequence[tuple[str, ...]],
    queries: dict[str, str],
    documents: dict[str, str],
    passages: Passages,
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return the pairs that a model scores for the rows of ``run``, and the first pair of each row."""
    cut = {doc_id: passages.cut(text) for doc_id, text in documents.items()}
    asked = run.column("query_id").to_pylist()
    rows = [
        [text for doc_id in own for text in cut[doc_id]]
        for own in members or ((doc_id,) for doc_id in run.column("doc_id").to_pylist())
    ]
    starts = np.cumsum([0, *map(len, rows[:-1])], dtype=np.int64)[: len(rows)]  # of none, none
    return [(queries[query_id], text) for query_id, texts in zip(asked, rows, strict=True) for text in texts], starts


def _judged_queries(collection: Path) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Return judgements and texts of the test queries that have judgements."""
    texts: dict[str, str] = {}
    for batch in tables.read_batches(tables.QUERIES, collection):
        batch = batch.filter(pc.equal(batch.column("origin"), "test"))
        texts.update(zip(batch.column("query_id").to_pylist(), batch.column("text").to_pylist(), strict=True))
    wanted = pa.array(list(texts), pa.string())
    qrels: dict[str, dict[str, int]] = {}
    for batch in tables.read_batches(tables.QRELS, collection):
        batch = batch.filter(pc.is_in(batch.column("query_id"), wanted))
        for query_id, doc_id, relevance in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if relevance > measures.HIGHEST:
                raise UserError(
                    f"{collection / tables.QRELS.filename}: query {query_id!r} has document {doc_id!r} with relevance "
                    f"{relevance}, which is no grade (at most {measures.HIGHEST:,}); correct the column of the judgements that "
                    "holds the relevance, and prepare the corpus again",
                    code="judgements-unusable",
                )
            qrels.setdefault(query_id, {})[doc_id] = relevance
    return qrels, texts


def _passages(collection: Path, wanted: pa.Array) -> dict[str, tuple[str, str]]:
    """Return the title and text of the ``wanted`` documents alone: the corpus streams by."""
    texts: dict[str, tuple[str, str]] = {}
    if len(wanted) == 0:
        return texts
    for batch in tables.read_batches(tables.CORPUS, collection):
        batch = batch.filter(pc.is_in(batch.column("doc_id"), wanted))
        for doc_id, title, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            texts[doc_id] = title, text
    return texts


def _not_self(
    run: pa.Table, qrels: dict[str, dict[str, int]], queries: dict[str, str], passages: dict[str, tuple[str, str]]
) -> np.ndarray:
    """Mask of the rows to keep: BEIR's quirk is that a query may itself be a document (arguana, quora).

    Equal ids are not enough: where both are numbered from 1 (cisi, vaswani) they mean nothing, so the passage must hold
    the query's words as well, and not be judged relevant.
    """
    keep = np.ones(run.num_rows, bool)
    for row in np.flatnonzero(pc.equal(run.column("query_id"), run.column("doc_id")).to_numpy()):
        query_id = run.column("query_id")[int(row)].as_py()
        texts = queries[query_id], default_text(*passages[query_id])
        # The same words may be composed in the one and decomposed in the other.
        query, passage = (" ".join(unicodedata.normalize("NFKC", text).lower().split()) for text in texts)
        keep[row] = query not in passage or qrels[query_id].get(query_id, 0) > 0
    return keep
