"""Training sets as arrays: every query and passage is tokenised once, prompts are assembled batch by batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow import schemas
from inranker_flow.distillation.losses import centred
from inranker_flow.distillation.tokens import RaggedWriter, id_kind, join, open_array, open_joined
from inranker_flow.errors import UserError
from inranker_flow.manifest import FILENAME as MANIFEST
from inranker_flow.manifest import read_manifest
from inranker_flow.progress import Progress
from inranker_flow.prompts import RENDERER_VERSION, Ragged, Renderer
from inranker_flow.scratch import scratch_folder
from inranker_flow.storage import atomic_folder, digest_file

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
    #: Scratch folder with the files that the arrays are mapped from; whoever trains on them removes it when it is done.
    store: Path

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Number of consecutive ``rows`` with the same query."""
        return run_lengths(self.query[rows])

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Tokens in the prompt of each pair."""
        return self.renderer.lengths(
            self.queries.lengths(self.query[rows]), self.documents.lengths(self.document[rows])
        )

    def batch(self, rows: np.ndarray, pad_to: int = 1) -> Batch:
        """Prompts of the pairs in ``rows``, padded to the longest of them and to a multiple of ``pad_to``."""
        query = self.query[rows]
        ids, mask = self.renderer.assemble_batch(self.queries, query, self.documents, self.document[rows], pad_to)
        return Batch(ids, mask, self.teacher[rows], query)


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
        name: open_array(store / f"{name}.npy") for name in ("query", "document", "teacher", "set_of", "text_hash")
    }
    teacher = array["teacher"]
    queries, documents = open_joined(store, ("queries", "documents"), kind)
    return Examples(
        names=names,
        renderer=renderer,
        queries=queries,
        documents=documents,
        query=array["query"],
        document=array["document"],
        teacher=(centred(teacher) if centre else teacher).astype(np.float32),
        set_of=array["set_of"],
        text_hash=array["text_hash"].copy(),
        store=store.parent,
    )


def renderer_identity(renderer: Renderer) -> list[Any]:
    """What the tokens of a text depend on."""
    backend = getattr(renderer.tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(sorted(renderer.tokenizer.get_vocab().items()))
    digest = blake2b(content.encode(), digest_size=16).hexdigest()
    return [RENDERER_VERSION, type(renderer.tokenizer).__name__, digest, renderer.max_length]


def _write_store(store: Path, folders: Sequence[Path], renderer: Renderer, seed: int) -> None:
    """All training sets as one: texts tokenised once each, pairs as rows of them, ordered by query."""
    from inranker_flow.corpora import default_text

    kind = id_kind(len(renderer.tokenizer))
    writers = {
        schemas.QUERIES: RaggedWriter(store, "queries", kind),
        schemas.CORPUS: RaggedWriter(store, "documents", kind),
    }
    first = dict.fromkeys(writers, 0)
    names: list[str] = []
    hashes: list[np.ndarray] = []
    pairs: dict[str, list[np.ndarray]] = {"query": [], "document": [], "teacher": [], "set_of": []}

    for folder in folders:
        names.append(read_manifest(folder).dataset)
        labels = schemas.read(schemas.LABELS, folder)
        path = folder / schemas.LABELS.filename
        if labels.num_rows == 0:
            raise UserError(
                f"{path}: no labels, so there is nothing to train on; "
                f"look at the counts of the teacher_label stage of {names[-1]}"
            )
        progress = Progress(f"tokenising {names[-1]}", sum(schemas.count(each, folder) for each in writers), "texts")
        rows: dict[str, np.ndarray] = {}
        for table, key in ((schemas.QUERIES, "query_id"), (schemas.CORPUS, "doc_id")):
            ids = []
            for batch in schemas.read_batches(table, folder, TOKENISE_ROWS):
                texts = batch.column("text").to_pylist()
                if table is schemas.QUERIES:
                    encoded = renderer.encode_queries(texts)
                    hashes.append(np.array([_hash(seed, text) for text in texts], dtype=np.uint64))
                else:
                    titles = batch.column("title").to_pylist()
                    encoded = renderer.encode_documents(
                        [default_text(*each) for each in zip(titles, texts, strict=True)]
                    )
                # Tokens beyond max_length can never be in a prompt.
                writers[table].add([row[: renderer.max_length] for row in encoded])
                ids.append(batch.column(key))
                progress.advance(len(texts))
            if not ids:
                raise UserError(f"{folder / table.filename}: table {table.name} is empty but labels.parquet is not")
            known = pa.chunked_array(ids)
            schemas.check_references(labels, key, known, table.filename, str(path))
            rows[key] = pc.index_in(labels.column(key), value_set=known).to_numpy() + first[table]
            first[table] += len(known)
            if table is schemas.QUERIES:
                pairs["set_of"].append(np.full(len(known), len(names) - 1))
        order = np.argsort(rows["query_id"], kind="stable")
        logits = np.stack([labels.column(f"{word}_logit").to_numpy() for word in ("false", "true")], axis=1)
        for name, values in (("query", rows["query_id"]), ("document", rows["doc_id"]), ("teacher", logits)):
            pairs[name].append(values[order])

    for writer in writers.values():
        writer.close()
    join(store, ("queries", "documents"))
    kinds = {"query": np.int64, "document": np.int64, "teacher": np.float64, "set_of": np.int32}
    for name, parts in pairs.items():
        np.save(store / f"{name}.npy", np.concatenate(parts).astype(kinds[name]))
    np.save(store / "text_hash.npy", np.concatenate(hashes))
    (store / "names.json").write_text(json.dumps(names), encoding="utf-8")


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
