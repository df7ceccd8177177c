"""Training sets as arrays: every query and passage is tokenised once, prompts are assembled batch by batch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import FILENAME as MANIFEST
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.beginnings import chunks
from inranker_flow.distillation.losses import centred
from inranker_flow.distillation.tokens import RaggedWriter, id_kind, join, open_array, open_joined
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.rankers.monot5_prompt import RENDERER_VERSION, Ragged, Renderer, common
from inranker_flow.scratch import scratch_folder
from inranker_flow.storage.local import atomic_folder, digest_file

log = logging.getLogger(__name__)

#: Arrays of token ids in a store, and the tables that the first two come from.
NAMES = ("queries", "documents", "whole")
TEXTS = {tables.QUERIES: ("queries", "query_id"), tables.CORPUS: ("documents", "doc_id")}
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
    #: Pairs (ascending) whose prompts are tokenised whole, and these prompts (see `Renderer`): normally none.
    odd: np.ndarray
    whole: Ragged
    #: Scratch folder with the files that the arrays are mapped from; whoever trains on them removes it when it is done.
    store: Path

    def select(self, rows: np.ndarray) -> Examples:
        """The pairs ``rows`` (ascending) alone."""
        odd = np.flatnonzero(np.isin(self.odd, rows))
        return replace(
            self,
            query=self.query[rows],
            document=self.document[rows],
            teacher=self.teacher[rows],
            odd=np.searchsorted(rows, self.odd[odd]),
            whole=self.whole.select(odd),
        )

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Number of consecutive ``rows`` with the same query."""
        return run_lengths(self.query[rows])

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Tokens in the prompt of each pair."""
        lengths = self.renderer.lengths(
            self.queries.lengths(self.query[rows]), self.documents.lengths(self.document[rows])
        )
        if len(self.odd):
            places, numbers = self._odd_ones(rows)
            lengths[places] = self.whole.lengths(numbers)
        return lengths

    def _odd_ones(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places in ``rows`` of those that are odd, their places in ``odd``)."""
        return common(rows, self.odd)

    def batch(self, rows: np.ndarray, pad_to: int = 1) -> Batch:
        """Prompts of the pairs in ``rows``, padded to the longest of them and to a multiple of ``pad_to``."""
        query = self.query[rows]
        ids, mask = self.renderer.assemble_batch(self.queries, query, self.documents, self.document[rows], pad_to)
        if len(self.odd):
            ids, mask = self._with_whole(rows, ids, mask, pad_to)
        return Batch(ids, mask, self.teacher[rows], query)

    def _with_whole(
        self, rows: np.ndarray, ids: np.ndarray, mask: np.ndarray, pad_to: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """``ids`` and ``mask`` with the prompts of odd pairs in their places."""
        width = -(-int(self.lengths(rows).max(initial=1)) // pad_to) * pad_to
        more = (0, 0), (0, max(width - ids.shape[1], 0))
        ids = np.pad(ids, more, constant_values=self.renderer.tokenizer.pad_token_id)[:, :width]
        mask = np.pad(mask, more)[:, :width]
        for place, number in zip(*self._odd_ones(rows), strict=True):
            start, end = self.whole.offsets[number : number + 2]
            ids[place], mask[place] = self.renderer.tokenizer.pad_token_id, 0
            ids[place, : end - start], mask[place, : end - start] = self.whole.flat[start:end], 1
        return ids, mask


def run_lengths(values: np.ndarray) -> np.ndarray:
    """How often each value comes in a row: [5, 5, 2, 5] -> [2, 1, 1]."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return np.diff(np.concatenate([starts, [len(values)]]))


def load_examples(folders: Sequence[Path], renderer: Renderer, centre: bool, seed: int) -> Examples:
    """Read the labels/ folders ``folders``; raises :class:`UserError` for an empty or inconsistent one.

    ``centre``: subtract the mean of each pair's two teacher logits. Texts are tokenised at the first call, into the
    scratch folder (`Examples.store`); later calls for the same texts, of this process or another, map what is there.
    """
    digests = [digest_file(folder / MANIFEST) for folder in folders]
    store = scratch_folder("tokens", digests, renderer_identity(renderer), seed) / "store"
    if not store.exists():
        with atomic_folder(store) as aside:
            _write_store(aside, folders, renderer, seed)
    names = tuple(json.loads((store / "names.json").read_text(encoding="utf-8")))
    kind = id_kind(len(renderer.tokenizer))
    array = {
        name: open_array(store / f"{name}.npy")
        for name in ("query", "document", "teacher", "set_of", "text_hash", "odd")
    }
    teacher = array["teacher"]
    queries, documents, whole = open_joined(store, NAMES, kind)
    examples = Examples(
        names=names,
        renderer=renderer,
        queries=queries,
        documents=documents,
        query=array["query"],
        document=array["document"],
        teacher=(centred(teacher) if centre else teacher).astype(np.float32),
        set_of=array["set_of"],
        text_hash=array["text_hash"].copy(),
        odd=array["odd"],
        whole=whole,
        store=store.parent,
    )
    wanted = queries.lengths(examples.query)
    kept, _, _ = renderer.kept(wanted, documents.lengths(examples.document))
    if cut := len(np.unique(examples.query[kept < wanted])):
        log.warning("%s queries leave no room for a passage and are cut", f"{cut:,}")
    return examples


def renderer_identity(renderer: Renderer) -> list[Any]:
    """What the tokens of a text depend on."""
    backend = getattr(renderer.tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(sorted(renderer.tokenizer.get_vocab().items()))
    digest = blake2b(content.encode(), digest_size=16).hexdigest()
    settings = [renderer.max_length, renderer.truncation, renderer.append_eos]
    return [RENDERER_VERSION, type(renderer.tokenizer).__name__, digest, *settings]


def _write_store(store: Path, folders: Sequence[Path], renderer: Renderer, seed: int) -> None:
    """All training sets as one: texts tokenised once each, pairs as rows of them, ordered by query."""
    writers = {name: RaggedWriter(store, name, id_kind(len(renderer.tokenizer))) for name in NAMES}
    names, hashes = [], []
    first = {"queries": 0, "documents": 0}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("query", "document", "teacher", "set_of", "odd")}
    for number, folder in enumerate(folders):
        names.append(read_manifest(folder).dataset)
        labels = tables.read(tables.LABELS, folder)
        path = folder / tables.LABELS.filename
        if labels.num_rows == 0:
            raise UserError(
                f"{path}: no labels, so there is nothing to train on; "
                f"look at the counts of the teacher_label stage of {names[-1]}"
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
                raise UserError(f"{folder / table.filename}: table {table.name} is empty but labels.parquet is not")
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
            columns["odd"].append(odd_pairs + sum(map(len, columns["query"])))
        columns["query"].append(query + first["queries"])
        columns["document"].append(document + first["documents"])
        columns["teacher"].append(
            np.stack([labels.column(f"{word}_logit").to_numpy()[order] for word in ("false", "true")], axis=1)
        )
        for name in first:
            first[name] += len(irregular[name])

    for writer in writers.values():
        writer.close()
    join(store, NAMES)
    kinds = {"query": np.int64, "document": np.int64, "teacher": np.float64, "set_of": np.int32, "odd": np.int64}
    for name, parts in columns.items():
        np.save(store / f"{name}.npy", np.concatenate([*parts]) if parts else np.empty(0, kinds[name]))
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
            "overflows"
        )


def _texts(table: tables.Table, folder: Path) -> Iterator[tuple[pa.Array, list[str]]]:
    """(ids, texts) of the queries or passages in ``folder``, some at a time."""
    from inranker_flow.corpora.passage import default_text

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
    """What ``begin`` leaves of the texts in ``rows`` of a table, in that order."""
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
    """Which of the pairs in ``rows`` are held out, as a boolean array: whole queries, some of every training set.

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
    """Rows of the pairs whose query has two labelled documents or more: one alone has no order to learn."""
    documents = np.bincount(examples.query)
    return np.flatnonzero(documents[examples.query] > 1)


def replayed(examples: Examples, share: float) -> np.ndarray:
    """Rows of all pairs but those of the last training set that are too many: whole queries of it stay, those with the
    smallest hashes, with ``share`` pairs for each pair of the other sets (at least one query)."""
    last = examples.set_of[examples.query] == len(examples.names) - 1
    wanted = share * np.count_nonzero(~last)
    queries, pairs = np.unique(examples.query[last], return_counts=True)
    order = np.argsort(examples.text_hash[queries], kind="stable")
    fitting = max(int(np.searchsorted(np.cumsum(pairs[order]), wanted, side="right")), 1)
    return np.flatnonzero(~last | np.isin(examples.query, queries[order[:fitting]]))
