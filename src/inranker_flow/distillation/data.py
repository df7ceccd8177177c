"""Training sets as arrays: every query and passage is tokenised once, prompts are assembled batch by batch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import FILENAME as MANIFEST
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.beginnings import chunks
from inranker_flow.corpora.passage import default_text
from inranker_flow.distillation.losses import centred
from inranker_flow.distillation.tokens import RaggedWriter, id_kind, join, open_array, open_joined
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.rankers.monot5_pairs import Plan
from inranker_flow.rankers.monot5_prompt import Renderer
from inranker_flow.scratch import scratch_folder
from inranker_flow.storage.local import atomic_folder, digest_file

log = logging.getLogger(__name__)

#: Arrays of token ids in a store, and the tables that the first two come from.
NAMES = ("queries", "documents", "whole")
TEXTS = {tables.QUERIES: ("queries", "query_id"), tables.CORPUS: ("documents", "doc_id")}
#: Of the files that are written here: what other code has left in scratch is not read.
_FORMAT = 2
#: Texts that are token lists (Python objects) at a time.
TOKENISE_ROWS = 8_192


@dataclass(frozen=True)
class Batch:
    """Arrays of some pairs: ``input_ids`` and ``attention_mask`` (pairs, longest) int64, ``teacher`` (pairs, 2) float32
    logits [false, true], ``query`` (pairs,) the query of each, in order."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    teacher: np.ndarray
    query: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Consecutive pairs of each query, (queries,)."""
        return run_lengths(self.query)


@dataclass(frozen=True)
class Examples:
    """Labelled pairs of several training sets, ordered by query.

    ``prompts``: what a student reads of each pair. ``query`` (pairs,): its query's number; ``teacher`` (pairs, 2) float32.
    ``set_of`` (queries,) is the training set of each query and ``text_hash`` (queries,) a seeded hash of its text: ids
    may clash between sets, texts decide what is the same query.
    """

    names: tuple[str, ...]
    prompts: Plan
    query: np.ndarray
    teacher: np.ndarray
    set_of: np.ndarray
    text_hash: np.ndarray
    #: Scratch folder with the files that the arrays are mapped from; whoever trains on them removes it when it is done.
    store: Path

    @property
    def renderer(self) -> Renderer:
        return self.prompts.renderer

    def select(self, rows: np.ndarray) -> Examples:
        """Return the pairs ``rows`` (ascending) alone."""
        return replace(self, prompts=self.prompts.select(rows), query=self.query[rows], teacher=self.teacher[rows])

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of consecutive ``rows`` with the same query."""
        return run_lengths(self.query[rows])

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return tokens in the prompt of each pair."""
        return self.prompts.lengths[rows]

    def batch(self, rows: np.ndarray, pad_to: int = 1) -> Batch:
        """Return prompts of the pairs in ``rows``, padded to the longest of them and to a multiple of ``pad_to``."""
        return Batch(*self.prompts.inputs(rows, pad_to), self.teacher[rows], self.query[rows])


def run_lengths(values: np.ndarray) -> np.ndarray:
    """Return the length of each run of equal values: [5, 5, 2, 5] -> [2, 1, 1]."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return np.diff(np.concatenate([starts, [len(values)]]))


def load_examples(folders: Sequence[Path], renderer: Renderer, centre: bool, seed: int) -> Examples:
    """Read the labels/ folders ``folders``; raises :class:`UserError` for an empty or inconsistent one.

    ``centre``: subtract the mean of each pair's two teacher logits. Texts are tokenised at the first call, into the
    scratch folder (`Examples.store`); later calls for the same texts, of this process or another, map what is there.
    """
    digests = [digest_file(folder / MANIFEST) for folder in folders]
    store = scratch_folder("tokens", _FORMAT, digests, renderer.identity, seed) / "store"
    if not store.exists():
        with atomic_folder(store) as aside:
            _write_store(aside, folders, renderer, seed)
    names = tuple(json.loads((store / "names.json").read_text(encoding="utf-8")))
    kind = id_kind(len(renderer.tokenizer))
    array = {name: open_array(store / f"{name}.npy") for name in ("pairs", "teacher", "set_of", "text_hash", "odd")}
    teacher = array["teacher"]
    queries, documents, whole = open_joined(store, NAMES, kind)
    prompts = Plan.over(renderer, queries, documents, array["pairs"], array["odd"], whole)
    if prompts.cut_queries:
        log.warning("%s queries leave no room for a passage and are cut", f"{prompts.cut_queries:,}")
    return Examples(
        names=names,
        prompts=prompts,
        query=array["pairs"][:, 0],
        teacher=(centred(teacher) if centre else teacher).astype(np.float32),
        set_of=array["set_of"],
        text_hash=array["text_hash"].copy(),
        store=store.parent,
    )


def _write_store(store: Path, folders: Sequence[Path], renderer: Renderer, seed: int) -> None:
    """All training sets as one: texts tokenised once each, pairs as rows of them, ordered by query."""
    writers = {name: RaggedWriter(store, name, id_kind(len(renderer.tokenizer))) for name in NAMES}
    names, hashes = [], []
    first = {"queries": 0, "documents": 0}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("pairs", "teacher", "set_of", "odd")}
    for number, folder in enumerate(folders):
        names.append(read_manifest(folder).dataset)
        labels = tables.read(tables.LABELS, folder)
        path = folder / tables.LABELS.filename
        if labels.num_rows == 0:
            raise UserError(
                f"{path}: no labels, so there is nothing to train on; "
                f"look at the counts of the teacher_label stage of {names[-1]}",
                code="nothing-to-train",
            )
        _check_finite(labels, path)
        progress = Progress(f"tokenising {names[-1]}", sum(tables.count(each, folder) for each in TEXTS), "texts")
        rows, irregular = {}, {}
        for table, (name, key) in TEXTS.items():
            ids, odd = [], []
            for keys, texts in _texts(table, folder):
                split: Callable[[Sequence[str]], tuple[list[list[int]], np.ndarray]] = renderer.split_documents
                begin: Callable[[Iterable[str]], Iterator[str]] = renderer.begin_documents
                if table is tables.QUERIES:
                    hashes.append(np.array([_hash(seed, text) for text in texts], dtype=np.uint64))
                    begin, split = renderer.begin_queries, renderer.split_queries
                for chunk in chunks(begin(texts), TOKENISE_ROWS):
                    encoded, flags = split(chunk)
                    # Tokens beyond max_length can never be in a prompt.
                    writers[name].add([row[: renderer.max_length] for row in encoded])
                    odd.append(flags)
                ids.append(keys)
                progress.advance(len(texts))
            if not ids:
                raise UserError(
                    f"{folder / table.filename}: table {table.name} is empty but labels.parquet is not",
                    code="nothing-to-train",
                )
            known = pa.chunked_array(ids)
            tables.check_references(labels, key, known, table.filename, str(path))
            rows[name] = pc.index_in(labels.column(key), value_set=known).to_numpy()
            irregular[name] = np.concatenate(odd)
            if table is tables.QUERIES:
                columns["set_of"].append(np.full(len(known), number))
        order = np.argsort(rows["queries"], kind="stable")
        query, document = rows["queries"][order], rows["documents"][order]
        odd_pairs = np.flatnonzero(irregular["queries"][query] | irregular["documents"][document])
        if len(odd_pairs) and not renderer.parts_alone:
            log.warning(
                "%s prompts are tokenised as a whole: words there depend on their neighbours", f"{len(odd_pairs):,}"
            )
            pairs = zip(
                _some_texts(tables.QUERIES, folder, query[odd_pairs], renderer.begin_queries),
                _some_texts(tables.CORPUS, folder, document[odd_pairs], renderer.begin_documents),
                strict=True,
            )
            for chunk in chunks(pairs, TOKENISE_ROWS):
                writers["whole"].add(renderer.whole(chunk))
            columns["odd"].append(odd_pairs + sum(map(len, columns["pairs"])))
        columns["pairs"].append(np.stack([query + first["queries"], document + first["documents"]], axis=1))
        columns["teacher"].append(
            np.stack([labels.column(f"{word}_logit").to_numpy()[order] for word in ("false", "true")], axis=1)
        )
        for name in first:
            first[name] += len(irregular[name])

    for writer in writers.values():
        writer.close()
    join(store, NAMES)
    for name, parts in columns.items():
        np.save(store / f"{name}.npy", np.concatenate(parts) if parts else np.empty(0, np.int64))
    np.save(store / "text_hash.npy", np.concatenate(hashes))
    (store / "names.json").write_text(json.dumps(names), encoding="utf-8")


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


def _texts(table: tables.Table, folder: Path) -> Iterator[tuple[pa.Array, list[str]]]:
    """Yield (ids, texts) of the queries or passages in ``folder``, some at a time."""

    _, key = TEXTS[table]
    for batch in tables.read_batches(table, folder, TOKENISE_ROWS):
        texts = batch.column("text").to_pylist()
        if table is tables.CORPUS:
            titles = batch.column("title").to_pylist()
            texts = [default_text(*each) for each in zip(titles, texts, strict=True)]
        yield batch.column(key), texts


def _some_texts(
    table: tables.Table, folder: Path, rows: np.ndarray, begin: Callable[[Iterable[str]], Iterable[str]]
) -> list[str]:
    """Return the beginnings (by ``begin``) of the texts in ``rows`` of a table, in that order."""
    wanted, first = np.unique(rows), 0
    found: dict[int, str] = {}
    for _, texts in _texts(table, folder):
        here = wanted[(wanted >= first) & (wanted < first + len(texts))]
        found.update(zip(here.tolist(), begin(texts[int(row) - first] for row in here), strict=True))
        first += len(texts)
    return [found[int(row)] for row in rows]


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
