"""Training sets as arrays: every distinct query and passage is tokenised once, prompts are assembled batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow import schemas
from inranker_flow.distillation.losses import centred
from inranker_flow.errors import UserError
from inranker_flow.manifest import read_manifest
from inranker_flow.progress import Progress
from inranker_flow.prompts import Ragged, Renderer

#: Texts that are token lists (Python objects) at a time.
TOKENISE_ROWS = 8_192


@dataclass(frozen=True)
class Batch:
    """Arrays of some pairs: ``input_ids`` and ``attention_mask`` (pairs, longest) int64, ``teacher`` (pairs, 2) float32
    logits [false, true], ``sizes`` (queries,) consecutive pairs of each query."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    teacher: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Examples:
    """Labelled pairs of several training sets, ordered by query.

    ``query`` and ``document`` (pairs,) are rows of ``queries`` and ``documents``; ``teacher`` (pairs, 2) float32.
    ``set_of`` (queries,) is the training set of each query and ``text_hash`` (queries,) a seeded hash of its text: ids
    may clash between sets, texts decide what is the same query.
    """

    names: tuple[str, ...]
    renderer: Renderer
    queries: Ragged
    documents: Ragged
    query: np.ndarray
    document: np.ndarray
    teacher: np.ndarray
    set_of: np.ndarray
    text_hash: np.ndarray

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Number of consecutive ``rows`` with the same query."""
        query = self.query[rows]
        starts = np.flatnonzero(np.concatenate([[True], query[1:] != query[:-1]]))
        return np.diff(np.concatenate([starts, [len(query)]]))

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Tokens in the prompt of each pair."""
        kept = self.renderer.kept(self.queries.lengths(self.query[rows]), self.documents.lengths(self.document[rows]))
        return np.sum(kept, axis=0) + 1

    def batch(self, rows: np.ndarray) -> Batch:
        """Prompts of the pairs in ``rows``, padded to the longest of them."""
        ids, mask = self.renderer.assemble_batch(self.queries, self.query[rows], self.documents, self.document[rows])
        return Batch(ids, mask, self.teacher[rows], self.sizes(rows))


def load_examples(folders: Sequence[Path], renderer: Renderer, centre: bool, seed: int) -> Examples:
    """Read the labels/ folders ``folders``; raises :class:`UserError` for an empty or inconsistent one.

    ``centre``: subtract the mean of each pair's two teacher logits.
    """
    parts = [_load_one(folder, renderer, seed) for folder in folders]
    first_query = np.cumsum([0, *(len(part.text_hash) for part in parts)])
    first_document = np.cumsum([0, *(len(part.documents.offsets) - 1 for part in parts)])
    query = np.concatenate([part.query + start for part, start in zip(parts, first_query[:-1], strict=True)])
    document = np.concatenate([part.document + start for part, start in zip(parts, first_document[:-1], strict=True)])
    teacher = np.concatenate([part.teacher for part in parts])
    order = np.argsort(query, kind="stable")
    return Examples(
        names=tuple(part.names[0] for part in parts),
        renderer=renderer,
        queries=Ragged.joined([part.queries for part in parts]),
        documents=Ragged.joined([part.documents for part in parts]),
        query=query[order],
        document=document[order],
        teacher=(centred(teacher) if centre else teacher)[order].astype(np.float32),
        set_of=np.repeat(np.arange(len(parts)), [len(part.text_hash) for part in parts]),
        text_hash=np.concatenate([part.text_hash for part in parts]),
    )


def _load_one(folder: Path, renderer: Renderer, seed: int) -> Examples:
    from inranker_flow.corpora import default_text

    name = read_manifest(folder).dataset
    labels = schemas.read(schemas.LABELS, folder)
    if labels.num_rows == 0:
        raise UserError(
            f"{folder / schemas.LABELS.filename}: no labels, so there is nothing to train on; "
            f"look at the counts of the teacher_label stage of {name}"
        )
    # The tokens beyond max_length can never be in a prompt; half the memory where the vocabulary allows.
    kind = np.uint16 if len(renderer.tokenizer) <= np.iinfo(np.uint16).max else np.int32
    progress = Progress(
        f"tokenising {name}", sum(schemas.count(t, folder) for t in (schemas.QUERIES, schemas.CORPUS)), "texts"
    )

    def tokenise(table: schemas.Table, key: str) -> tuple[pa.Array, Ragged, list[np.ndarray]]:
        ids, tokens, hashes = [], [], []
        for rows in schemas.read_batches(table, folder, TOKENISE_ROWS):
            if table is schemas.QUERIES:
                texts = rows.column("text").to_pylist()
                encoded = renderer.encode_queries(texts)
                hashes.append(np.array([_hash(seed, text) for text in texts], dtype=np.uint64))
            else:
                titles, texts = rows.column("title").to_pylist(), rows.column("text").to_pylist()
                encoded = renderer.encode_documents([default_text(*each) for each in zip(titles, texts, strict=True)])
            ids.append(rows.column(key))
            tokens.append(Ragged.of([row[: renderer.max_length] for row in encoded], kind))
            progress.advance(len(texts))
        if not ids:
            raise UserError(f"{folder / table.filename}: table {table.name} is empty but labels.parquet is not")
        return pa.chunked_array(ids), Ragged.joined(tokens), hashes

    query_ids, queries, hashes = tokenise(schemas.QUERIES, "query_id")
    document_ids, documents, _ = tokenise(schemas.CORPUS, "doc_id")
    path = str(folder / schemas.LABELS.filename)
    schemas.check_references(labels, "query_id", query_ids, schemas.QUERIES.filename, path)
    schemas.check_references(labels, "doc_id", document_ids, schemas.CORPUS.filename, path)
    return Examples(
        names=(name,),
        renderer=renderer,
        queries=queries,
        documents=documents,
        query=pc.index_in(labels.column("query_id"), value_set=query_ids).to_numpy(),
        document=pc.index_in(labels.column("doc_id"), value_set=document_ids).to_numpy(),
        teacher=np.stack([labels.column(f"{word}_logit").to_numpy() for word in ("false", "true")], axis=1),
        set_of=np.zeros(len(queries.offsets) - 1, dtype=np.int64),
        text_hash=np.concatenate(hashes),
    )


def _hash(seed: int, text: str) -> int:
    return int.from_bytes(blake2b(f"{seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hold_out(examples: Examples, rows: np.ndarray, share: float, at_most: int) -> np.ndarray:
    """Which of the pairs in ``rows`` are held out, as a boolean array: whole queries, some of every training set.

    The queries with the smallest hashes are taken, ``share`` of each set, scaled down to ``at_most`` in all. Queries with
    the same text go together, in whatever set they are, so that no text is on both sides.
    """
    queries = np.unique(examples.query[rows])
    of_set = [queries[examples.set_of[queries] == each] for each in range(len(examples.names))]
    wanted = np.array([int(share * len(each) + 1e-9) for each in of_set])  # 0.29 * 100 is 28.999999999999996
    if wanted.sum() > at_most:
        wanted = np.minimum(wanted, np.maximum(wanted * at_most // wanted.sum(), 1))
    chosen = [np.sort(examples.text_hash[each])[:count] for each, count in zip(of_set, wanted, strict=True)]
    return np.isin(examples.text_hash[examples.query[rows]], np.concatenate(chosen))


def with_several_documents(examples: Examples) -> np.ndarray:
    """Rows of the pairs whose query has two labelled documents or more: one alone has no order to learn."""
    documents = np.bincount(examples.query)
    return np.flatnonzero(documents[examples.query] > 1)


class Sampler:
    """Shuffled batches of units, each unit once in an epoch; a unit is one pair, or the pairs of one query.

    The batch of a step depends on the seed and the step alone, so a resumed training sees what it would have seen.
    """

    def __init__(self, examples: Examples, rows: np.ndarray, whole_queries: bool, batch_pairs: int, seed: int) -> None:
        sizes = examples.sizes(rows) if whole_queries else np.ones(len(rows), dtype=np.int64)
        self._units = Ragged(rows, np.concatenate([[0], np.cumsum(sizes)]))
        self._count = len(sizes)
        #: Units in one batch: whole queries of about ``batch_pairs`` pairs, or just as many pairs.
        self.batch_units = max(round(batch_pairs * self._count / len(rows)), 1)
        self.steps_per_epoch = -(-self._count // self.batch_units)
        self.mean_pairs = len(rows) / self.steps_per_epoch
        self._seed, self._epoch, self._order = seed, -1, np.empty(0, dtype=np.int64)

    def pieces(self, step: int, count: int = 1) -> list[tuple[np.ndarray, float]]:
        """The batch of ``step`` (from 0) in at most ``count`` parts: (rows of the pairs, share of the batch's mean loss)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(self._count)
        units = self._order[place * self.batch_units : (place + 1) * self.batch_units]
        parts = [part for part in np.array_split(units, count) if len(part)]
        return [(self._units.first(part, self._units.lengths(part)), len(part) / len(units)) for part in parts]


def batches_by_length(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Positions in batches of at most ``tokens`` padded tokens (at least one position), longest first."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        count = max(tokens // int(lengths[order[0]]), 1)
        yield order[:count]
        order = order[count:]
