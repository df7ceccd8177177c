"""Training sets as arrays: every query and passage is tokenised once, prompts are assembled batch by batch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import FILENAME as MANIFEST
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.corpora.passage import default_text
from inranker_flow.distillation.losses import centred
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.rankers import arrays
from inranker_flow.rankers.base import Prompts, Reader
from inranker_flow.scratch import scratch_folder
from inranker_flow.storage.local import atomic_folder, digest_file

log = logging.getLogger(__name__)

#: Tables with the texts of pairs, and the ids that labels name them by.
KEYS = {tables.QUERIES: "query_id", tables.CORPUS: "doc_id"}
#: Of the files that are written here: what other code has left in scratch is not read.
_FORMAT = 4
#: Texts that are Python objects at a time.
READ_ROWS = 8_192


@dataclass(frozen=True)
class Batch:
    """Arrays of some pairs: ``inputs`` as the student's reader makes them (`rankers.base.Prompts`), ids and mask first, each
    int64 (pairs, longest); ``teacher`` (pairs, 2) float32 logits [false, true], ``query`` (pairs,) the query of each, in
    order, and ``relevance`` (pairs,) as `losses` takes it."""

    inputs: tuple[np.ndarray, ...]
    teacher: np.ndarray
    query: np.ndarray
    relevance: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Consecutive pairs of each query, (queries,)."""
        return run_lengths(self.query)


@dataclass(frozen=True)
class Examples:
    """Labelled pairs of several training sets, ordered by query.

    ``prompts``: what a student reads of each pair. ``query`` (pairs,): its query's number; ``teacher`` (pairs, 2) float32;
    ``relevance`` (pairs,) int8 as `losses` takes it. ``set_of`` (queries,) is the training set of each query and
    ``text_hash`` (queries,) a seeded hash of its text: ids may clash between sets, texts decide what is the same query.
    """

    names: tuple[str, ...]
    prompts: Prompts
    query: np.ndarray
    teacher: np.ndarray
    relevance: np.ndarray
    set_of: np.ndarray
    text_hash: np.ndarray
    #: Scratch folder with the files that the arrays are mapped from; whoever trains on them removes it when it is done.
    store: Path

    def select(self, rows: np.ndarray) -> Examples:
        """Return the pairs ``rows`` (ascending) alone."""
        return replace(
            self,
            prompts=self.prompts.select(rows),
            query=self.query[rows],
            teacher=self.teacher[rows],
            relevance=self.relevance[rows],
        )

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of consecutive ``rows`` with the same query."""
        return run_lengths(self.query[rows])

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return tokens in the prompt of each pair."""
        return self.prompts.lengths[rows]

    def batch(self, rows: np.ndarray, pad_to: int = 1) -> Batch:
        """Return prompts of the pairs in ``rows``, padded to the longest of them and to a multiple of ``pad_to``."""
        return Batch(self.prompts.inputs(rows, pad_to), self.teacher[rows], self.query[rows], self.relevance[rows])


def run_lengths(values: np.ndarray) -> np.ndarray:
    """Return the length of each run of equal values: [5, 5, 2, 5] -> [2, 1, 1]."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return np.diff(np.concatenate([starts, [len(values)]]))


def load_examples(folders: Sequence[Path], reader: Reader, centre: bool, seed: int) -> Examples:
    """Read the labels/ folders ``folders``; raises :class:`UserError` for an empty or inconsistent one.

    ``reader``: the student's. ``centre``: subtract the mean of each pair's two teacher logits. Texts are tokenised at the
    first call, into the scratch folder (`Examples.store`); later calls for the same texts, of this process or another, map
    what is there.
    """
    digests = [digest_file(folder / MANIFEST) for folder in folders]
    store = scratch_folder("tokens", _FORMAT, digests, reader.identity, seed) / "store"
    if not store.exists():
        with atomic_folder(store) as aside:
            _write_store(aside, folders, reader, seed)
    teacher, query = arrays.mapped(store, "teacher"), arrays.mapped(store, "query")
    return Examples(
        names=tuple(json.loads((store / "names.json").read_text(encoding="utf-8"))),
        prompts=reader.open(store),
        query=query,
        teacher=(centred(teacher) if centre else teacher).astype(np.float32),
        relevance=arrays.mapped(store, "relevance"),
        set_of=arrays.mapped(store, "set_of"),
        text_hash=arrays.mapped(store, "text_hash").copy(),
        store=store.parent,
    )


def _write_store(store: Path, folders: Sequence[Path], reader: Reader, seed: int) -> None:
    """Write all training sets as one: texts tokenised once each, pairs as rows of them, ordered by query."""
    sets = [_read_set(folder) for folder in folders]
    firsts = np.cumsum([[0, 0], *([each.queries, each.documents] for each in sets)], axis=0)[:-1]
    pairs = np.concatenate([each.pairs + first for each, first in zip(sets, firsts, strict=True)])
    hashes: list[int] = []

    def queries() -> Iterator[str]:
        for text in _texts(tables.QUERIES, folders):
            hashes.append(_hash(seed, text))
            yield text

    progress = Progress("tokenising", sum(each.queries + each.documents for each in sets), "texts")
    documents = _texts(tables.CORPUS, folders)
    reader.prepare(_advancing(progress, queries()), _advancing(progress, documents), pairs, store)
    progress.finish()
    arrays.save(
        store,
        query=pairs[:, 0],
        teacher=np.concatenate([each.teacher for each in sets]),
        relevance=np.concatenate([each.relevance for each in sets]),
        set_of=np.repeat(np.arange(len(sets)), [each.queries for each in sets]),
        text_hash=np.array(hashes, np.uint64),
    )
    (store / "names.json").write_text(json.dumps([each.name for each in sets]), encoding="utf-8")


@dataclass(frozen=True)
class _Set:
    """A training set without its texts: ``pairs`` (n, 2) rows of its queries and documents, ordered by query."""

    name: str
    queries: int
    documents: int
    pairs: np.ndarray
    teacher: np.ndarray
    relevance: np.ndarray


def _read_set(folder: Path) -> _Set:
    name = read_manifest(folder).dataset
    labels = tables.read(tables.LABELS, folder)
    path = folder / tables.LABELS.filename
    if labels.num_rows == 0:
        raise UserError(
            f"{path}: no labels, so there is nothing to train on; look at the counts of the teacher_label stage of {name}",
            code="nothing-to-train",
        )
    _check_finite(labels, path)
    rows, counts = [], []
    for table, key in KEYS.items():
        known = tables.column(table, folder, key)
        if not len(known):
            raise UserError(
                f"{folder / table.filename}: table {table.name} is empty but labels.parquet is not",
                code="nothing-to-train",
            )
        tables.check_references(labels, key, known, table.filename, str(path))
        rows.append(pc.index_in(labels.column(key), value_set=known).to_numpy())
        counts.append(len(known))
    order = np.argsort(rows[0], kind="stable")
    logits = [labels.column(f"{word}_logit").to_numpy()[order] for word in ("false", "true")]
    pairs = np.stack(rows, axis=1)[order]
    relevance = _relevance(labels, folder, rows[0])[order]
    return _Set(name, counts[0], counts[1], pairs, np.stack(logits, axis=1), relevance)


def _relevance(labels: pa.Table, folder: Path, query: np.ndarray) -> np.ndarray:
    """Return 1 for each pair that is judged relevant, 0 for the others of its query, -1 for queries without judgements."""
    if not (folder / tables.JUDGED.filename).is_file():
        return np.full(labels.num_rows, -1, np.int8)
    judged = tables.read(tables.JUDGED, folder)
    relevant = pc.is_in(tables.joined_keys(labels), value_set=tables.joined_keys(judged).combine_chunks()).to_numpy()
    return np.where(relevant, 1, np.where(np.isin(query, query[relevant]), 0, -1)).astype(np.int8)


def _check_finite(labels: pa.Table, path: Path) -> None:
    """Refuse labels that would make every loss nan; the student is trained in float32."""
    logits = np.stack([labels.column(f"{word}_logit").to_numpy() for word in ("false", "true")], axis=1)
    bad = np.flatnonzero(~(np.abs(logits) <= np.finfo(np.float32).max).all(axis=1))
    if len(bad):
        query_id, doc_id = (labels.column(name)[int(bad[0])].as_py() for name in ("query_id", "doc_id"))
        raise UserError(
            f"{path}: the logits of {len(bad):,} of {labels.num_rows:,} pairs are no finite float32 numbers (the first: query "
            f"{query_id!r}, document {doc_id!r}); label them again, with teacher.scoring.dtype float32 if the teacher "
            "overflows",
            code="logits-not-finite",
        )


def _texts(table: tables.Table, folders: Sequence[Path]) -> Iterator[str]:
    """Yield the texts of all queries, or of all passages, in ``folders``, one folder after another."""
    for folder in folders:
        for batch in tables.read_batches(table, folder, READ_ROWS):
            texts = batch.column("text").to_pylist()
            if table is tables.CORPUS:
                titles = batch.column("title").to_pylist()
                texts = [default_text(*each) for each in zip(titles, texts, strict=True)]
            yield from texts


def _advancing(progress: Progress, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield text
        progress.advance(1)


def _hash(seed: int, text: str) -> int:
    return int.from_bytes(blake2b(f"{seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hold_out(examples: Examples, rows: np.ndarray, share: float, at_most: int) -> np.ndarray:
    """Return a mask of the pairs in ``rows`` that are held out, a boolean array: whole queries, some of every training set.

    The queries with the smallest hashes are taken, ``share`` of each set, scaled down to ``at_most`` in all. Queries with
    the same text go together, in whatever set they are, so that no text is on both sides.
    """
    queries = np.unique(examples.query[rows])
    of_set = [queries[examples.set_of[queries] == each] for each in range(len(examples.names))]
    if at_most < 1:
        return np.zeros(len(rows), bool)
    wanted = np.array([int(share * len(each) + 1e-9) for each in of_set])  # 0.29 * 100 is 28.999999999999996
    if wanted.sum() > at_most:
        wanted = np.minimum(wanted, np.maximum(wanted * at_most // wanted.sum(), 1))
    chosen = [np.sort(examples.text_hash[each])[:count] for each, count in zip(of_set, wanted, strict=True)]
    return np.isin(examples.text_hash[examples.query[rows]], np.concatenate(chosen))


def with_several_documents(examples: Examples) -> np.ndarray:
    """Return rows of the pairs whose query has two labelled documents or more: one alone has no order to learn."""
    documents = np.bincount(examples.query)
    return np.flatnonzero(documents[examples.query] > 1)


def replayed(examples: Examples, share: float) -> np.ndarray:
    """Return rows of all pairs but those of the last training set that are too many: whole queries of it stay, those with the
    smallest hashes, with ``share`` pairs for each pair of the other sets (at least one query)."""
    last = examples.set_of[examples.query] == len(examples.names) - 1
    wanted = share * np.count_nonzero(~last)
    queries, pairs = np.unique(examples.query[last], return_counts=True)
    order = np.argsort(examples.text_hash[queries], kind="stable")
    fitting = max(int(np.searchsorted(np.cumsum(pairs[order]), wanted, side="right")), 1)
    return np.flatnonzero(~last | np.isin(examples.query, queries[order[:fitting]]))
