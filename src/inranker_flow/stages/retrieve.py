"""The stage `retrieve`: candidates for the test queries, and for each training query the pairs to label.

Both come from one first stage (:mod:`inranker_flow.retrieval.first_stages`), of whose kind nothing is known here.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import manifest, tables
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.values import FirstStageName
from inranker_flow.corpora.documents import are_cut, documents_of
from inranker_flow.errors import CollectionFault, UserError
from inranker_flow.execution.left_out import REFUSED
from inranker_flow.generation.held_out import ORIGIN
from inranker_flow.progress import Progress
from inranker_flow.retrieval import first_stages
from inranker_flow.retrieval.analyser import in_language
from inranker_flow.retrieval.first_stage import Asked, FirstStage, Passages, Queries
from inranker_flow.retrieval.judged_documents import ASIDE, as_passages, judged_relevant
from inranker_flow.retrieval.negative_sampling import draw
from inranker_flow.retrieval.searching import QUERIES
from inranker_flow.storage.local import atomic_write
from inranker_flow.store.negatives import drawn_by, kept_negatives

log = logging.getLogger(__name__)

#: Generated queries that the report shows.
_SAMPLES = 5


@dataclass(frozen=True)
class RetrieveStats:
    """Counts of the search."""

    documents: int
    train_queries: int
    pairs: int
    #: Pairs by role: passages that queries were written for, judged relevant ones, sampled ones.
    sources: int
    positives: int
    negatives: int
    #: Negatives that could not be sampled, because the first stage found too few other passages.
    negatives_missing: int
    #: Training queries that keep the negatives of an earlier run.
    queries_kept: int
    #: Training queries that people asked, of which nobody has judged a passage.
    queries_logged: int
    #: Training queries without pairs: nothing judged relevant; published labels instead.
    train_queries_without_positive: int
    train_queries_published: int
    test_queries: int
    #: Queries that are measured by, without a judgement.
    held_out_queries: int
    #: Test queries for which the first stage found nothing.
    test_queries_without_hits: int
    run_rows: int
    seconds_index: float
    queries_per_second: float


def retrieve(
    config: RetrieveConfig,
    collection: Path,
    queries: Path | None,
    candidates: Path,
    earlier: str = "",
    language: str = "",
) -> RetrieveStats:
    """Search ``collection`` and write ``candidates``: queries, pairs, run (Parquet and TREC).

    Training queries are those of ``queries``, without the ones that have published labels; else the collection's own,
    unless it comes with published labels, which stand in for the teacher's then.
    The run holds the best ``test_depth`` passages of each test query; a passage that shares no token with the query is
    no hit. Passages of equal score are ordered by doc_id, also at the cut.

    ``earlier`` is the content digest of a training set that was made of an earlier state of the collection: queries that
    are as they were keep its negatives (:mod:`inranker_flow.store.negatives`) and are not searched. ``language``: the
    collection's
    (`CorpusConfig.language`), whose words and stems are searched for.

    Raises :class:`UserError` where ``queries`` belongs to another data set or names a passage that is not there, and where
    most of the training or of the test queries find nothing.
    """
    config = in_language(config, language)
    dataset = manifest.read_manifest(collection).dataset
    if queries is not None and (other := manifest.read_manifest(queries).dataset) != dataset:
        raise UserError(
            f"{queries}: holds queries for {other!r}, but the collection is {dataset!r}", code="artifact-mismatch"
        )
    candidates.mkdir(parents=True, exist_ok=True)
    (candidates / manifest.FILENAME).unlink(missing_ok=True)
    work = _Retrieval(config, collection, queries, candidates, earlier)
    stats = work.run()
    manifest.write_manifest(
        candidates,
        dataset=dataset,
        stage="retrieve",
        drawn=drawn_by(config, collection),
        first_stage=_described(config),
        also=[_described(replace(config, first_stage=each, also=())) for each in config.also],
        earlier=earlier,
        queries_kept=stats.queries_kept,
        **({"generation": noted(queries)} if queries else {}),
    )
    work.remove_scratch()
    return stats


def _described(config: RetrieveConfig) -> dict[str, str]:
    return {"kind": config.first_stage, "name": first_stages.describe(config)}


def noted(queries: Path) -> dict[str, Any]:
    """Return the counts of the synthetic queries for the report, so that later stages need not be handed these."""
    details = manifest.read_manifest(queries).details
    return {
        "generator": details.get("generator", ""),
        "prompt": details.get("prompt", ""),
        "counts": details.get("counts", {}),
        "samples": details.get("samples", [])[:_SAMPLES],
        "tokens_per_second": details.get("tokens_per_second"),
    }


class _Retrieval:
    """One run of the stage."""

    def __init__(
        self, config: RetrieveConfig, collection: Path, queries: Path | None, candidates: Path, earlier: str
    ) -> None:
        self.config, self.collection, self.queries, self.candidates = config, collection, queries, candidates
        self.earlier = earlier
        self.first_stage: FirstStage | None = None

    def run(self) -> RetrieveStats:
        """Index, then training queries, then test queries."""
        train, published = self._training_queries()
        train, held_out = _apart(train)
        test = self._collection_queries("test")
        self.counts = dict.fromkeys(("source", "positive", "negative", "missing", "without_hits", "run"), 0)
        relevant = self._relevant(train)
        has_positive = pa.array([bool(relevant.get(id_)) for id_ in train.column("query_id").to_pylist()], pa.bool_())
        is_logged = pc.equal(train.column("origin"), "log")
        has_positive = pc.or_(has_positive, is_logged)
        without = train.num_rows
        train = train.filter(has_positive)
        without -= train.num_rows
        tables.write(tables.QUERIES, self.candidates / tables.QUERIES.filename, train)
        kept: dict[str, list[str]] = {}
        if self.earlier:
            paired = {
                query: {doc: role for doc, role in own.items() if role != ASIDE} for query, own in relevant.items()
            }
            kept = kept_negatives(self.config, self.earlier, train, paired, self.collection)
            log.info("%s of %s queries keep their negatives", f"{len(kept):,}", f"{train.num_rows:,}")
        total = train.num_rows - len(kept) + test.num_rows + held_out.num_rows
        start = time.monotonic()
        with ExitStack() as stack:
            if total:
                self.first_stage = stack.enter_context(
                    first_stages.open_first_stage(self.config, self.collection, total)
                )
                self.first_stage.check(self._asked(train, test, held_out))
            seconds_index = time.monotonic() - start
            progress = Progress("searching", total, "queries")
            self._write_pairs(train, relevant, kept, progress)
            self._write_run(self.first_stage, test, self.candidates, self.config.first_stage, progress)
            self._check_candidates(self.candidates, self.config)
            self._write_held_out(held_out, progress)
        speed = progress.finish() if total else 0.0
        for name in self.config.also:
            self._search_also(name, test)
        roles = {role: self.counts[role] for role in tables.ROLES}
        if self.counts["missing"]:
            log.warning(
                "%s negatives are missing: %s finds too few other passages for some queries",
                self.counts["missing"],
                first_stages.describe(self.config),
            )
        return RetrieveStats(
            documents=tables.count(tables.CORPUS, self.collection),
            train_queries=train.num_rows,
            pairs=sum(roles.values()),
            sources=roles["source"],
            positives=roles["positive"],
            negatives=roles["negative"],
            negatives_missing=self.counts["missing"],
            queries_kept=len(kept),
            queries_logged=pc.sum(is_logged).as_py() or 0,
            train_queries_without_positive=without,
            train_queries_published=published,
            test_queries=test.num_rows,
            held_out_queries=held_out.num_rows,
            test_queries_without_hits=self.counts["without_hits"],
            run_rows=self.counts["run"],
            seconds_index=seconds_index,
            queries_per_second=speed,
        )

    def _asked(self, train: pa.Table, test: pa.Table, held_out: pa.Table) -> dict[str, Asked]:
        """Return what will be searched for, by kind."""
        where = self.queries or self.collection
        asked = {
            "training": Asked(where, _queries(train), self.config.depth),
            "test": Asked(self.collection, _queries(test), self.config.test_depth),
        }
        held = {"held-out": Asked(where, _queries(held_out), self.config.test_depth)}
        return asked | (held if held_out.num_rows else {})

    def _collection_queries(self, *origins: str) -> pa.Table:
        table = tables.read(tables.QUERIES, self.collection)
        return table.filter(pc.is_in(table.column("origin"), pa.array(origins)))

    def _training_queries(self) -> tuple[pa.Table, int]:
        """Return queries to find pairs for, and how many were left out because there are published labels instead."""
        published = (self.collection / tables.LABELS.filename).is_file()
        if self.queries is None:
            # Published labels replace the teacher: the few queries without one are not worth indexing MS MARCO for.
            table = self._collection_queries("supervised", "synthetic")
            return (table.slice(0, 0), table.num_rows) if published else (table, 0)
        table = tables.read(tables.QUERIES, self.queries)
        if not published:
            return table, 0
        labelled: pa.Array = pa.array([], pa.string())
        for batch in tables.read_batches(tables.LABELS, self.collection):
            labelled = pc.unique(pa.chunked_array([labelled, batch.column("query_id").unique()]))
        open_ = table.filter(pc.invert(pc.is_in(table.column("query_id"), labelled)))
        return open_, table.num_rows - open_.num_rows

    def _relevant(self, train: pa.Table) -> dict[str, dict[str, str]]:
        """Return query -> passage -> role, for the passages that may not be sampled as negatives."""
        found: dict[str, dict[str, str]] = {}
        columns = (train.column("query_id").to_pylist(), train.column("source_doc_id").to_pylist())
        for query_id, doc_id in zip(*columns, strict=True):
            found[query_id] = {doc_id: "source"} if doc_id is not None else {}
        for batch in tables.read_batches(tables.QRELS, self.collection):
            judged = batch.filter(pc.greater(batch.column("relevance"), 0))
            ids = (judged.column("query_id").to_pylist(), judged.column("doc_id").to_pylist())
            for query_id, doc_id in zip(*ids, strict=True):
                if query_id in found:
                    found[query_id].setdefault(doc_id, "positive")
        if are_cut(self.collection):
            return as_passages(
                self.collection, found, dict(zip(columns[0], train.column("text").to_pylist(), strict=True))
            )
        return found

    def remove_scratch(self) -> None:
        """Remove the files that a later attempt would have needed."""
        if self.first_stage:
            self.first_stage.forget()

    def _places(self, passages: Passages, relevant: Mapping[str, Mapping[str, str]]) -> np.ndarray:
        """Return the places of the passages that queries refer to, in the order of ``relevant``."""
        doc_ids = pa.array((doc_id for roles in relevant.values() for doc_id in roles), pa.large_string())
        places = pc.index_in(doc_ids, value_set=passages.doc_ids)
        missing = set(doc_ids.filter(places.is_null()).to_pylist())
        if missing:
            first = min(missing)
            query_id = min(query_id for query_id, roles in relevant.items() if first in roles)
            raise UserError(
                f"{self.queries or self.collection}: query {query_id!r} belongs to the passage {first!r}, which "
                f"{self.collection} lacks ({len(missing)} such passages); queries and collection must be from one corpus",
                code="reference-lost",
            )
        return places.to_numpy()

    def _write_pairs(
        self,
        train: pa.Table,
        relevant: Mapping[str, Mapping[str, str]],
        kept: Mapping[str, list[str]],
        progress: Progress,
    ) -> None:
        """Those with the ``kept`` negatives first."""
        is_kept = pa.array([query_id in kept for query_id in train.column("query_id").to_pylist()], pa.bool_())
        with tables.TableWriter(self.candidates / tables.PAIRS.filename, tables.PAIRS) as writer:
            for queries in _batches(train.filter(is_kept)):
                self._write(writer, queries.ids, relevant, [kept[query_id] for query_id in queries.ids])
            batches = _batches(train.filter(pc.invert(is_kept)))
            if not self.first_stage or not batches:
                return
            for queries, found in zip(batches, self._sampled(self.first_stage, batches, relevant), strict=True):
                self._write(writer, queries.ids, relevant, found)
                self.counts["missing"] += sum(max(self.config.wanted - len(each), 0) for each in found)
                progress.advance(len(queries.ids))

    def _write(
        self,
        writer: tables.TableWriter,
        query_ids: Sequence[str],
        relevant: Mapping[str, Mapping[str, str]],
        sampled: Sequence[Sequence[str]],
    ) -> None:
        columns: tuple[list[str], list[str], list[str]] = ([], [], [])
        for query_id, negatives in zip(query_ids, sampled, strict=True):
            own = [(doc_id, role) for doc_id, role in relevant[query_id].items() if role != ASIDE]
            for doc_id, role in [*own, *((doc_id, "negative") for doc_id in negatives)]:
                self.counts[role] += 1
                for column, value in zip(columns, (query_id, doc_id, role), strict=True):
                    column.append(value)
        writer.write(dict(zip(tables.PAIRS.schema.names, columns, strict=True)))

    def _sampled(
        self, first_stage: FirstStage, batches: Sequence[Queries], relevant: Mapping[str, Mapping[str, str]]
    ) -> Iterator[list[list[str]]]:
        """For each batch the negatives of its queries."""
        passages = first_stage.passages
        places = self._places(passages, {query_id: relevant[query_id] for batch in batches for query_id in batch.ids})
        if not self.config.wanted:
            for batch in batches:
                yield [[] for _ in batch.ids]
            return
        first = 0
        for batch, found in zip(batches, first_stage.find(batches, self.config.depth), strict=True):
            counts = np.array([len(relevant[query_id]) for query_id in batch.ids])
            last = first + int(counts.sum())
            yield draw(self.config, passages, batch.ids, [hits for hits, _ in found], counts, places[first:last])
            first = last

    def _write_held_out(self, queries: pa.Table, progress: Progress) -> None:
        """Write the held-out queries and what is found for them, in a folder of their own; none where there are none."""
        folder = self.candidates / tables.HELD_OUT
        shutil.rmtree(folder, ignore_errors=True)
        if queries.num_rows:
            tables.write(tables.QUERIES, folder / tables.QUERIES.filename, queries)
            self._write_run(self.first_stage, queries, folder, self.config.first_stage, progress)

    def _search_also(self, name: FirstStageName, test: pa.Table) -> None:
        """Write what another first stage finds for the test queries, in the folder `also/NAME`."""
        folder = self.candidates / tables.ALSO / name
        folder.mkdir(parents=True, exist_ok=True)
        config = replace(self.config, first_stage=name, also=())
        progress = Progress(f"searching by {name}", test.num_rows, "queries")
        with ExitStack() as stack:
            other = None
            if test.num_rows:
                other = stack.enter_context(first_stages.open_first_stage(config, self.collection, test.num_rows))
                other.check({"test": Asked(self.collection, _queries(test), config.test_depth)})
            self._write_run(other, test, folder, name, progress)
            self._check_candidates(folder, config)
        if other:
            other.forget()
            progress.finish()

    def _check_candidates(self, folder: Path, config: RetrieveConfig) -> None:
        """Refuse candidates of a target of which nothing could be told when they are reranked: `evaluate` would end the run
        for them, after all training."""
        target = manifest.read_manifest(self.collection).details.get(REFUSED)
        relevant = judged_relevant(self.collection) if target else {}
        if not relevant:
            return
        run = tables.read(tables.RUN, folder)
        pairs = list(zip(run.column("query_id").to_pylist(), run.column("doc_id").to_pylist(), strict=True))
        pairs = [(query_id, doc_id) for query_id, doc_id in pairs if query_id in relevant]
        document_of = documents_of(self.collection, {doc_id for _, doc_id in pairs})
        if any({doc_id, document_of.get(doc_id)} & relevant[query_id] for query_id, doc_id in pairs):
            return
        found = f"none of the {len(pairs):,} candidates" if pairs else "no candidate"
        raise CollectionFault(
            f"{self.collection}: {found} that {first_stages.describe(config)} finds for its {len(relevant):,} test queries is "
            "judged relevant, so every system would get 0; do the judgements name documents of this corpus? If they do, raise "
            "retrieval.test_depth",
            code="candidates-useless",
        )

    def _write_run(
        self, first_stage: FirstStage | None, test: pa.Table, folder: Path, tag: str, progress: Progress
    ) -> None:
        with ExitStack() as stack:
            writer = stack.enter_context(tables.TableWriter(folder / tables.RUN.filename, tables.RUN))
            trec = stack.enter_context(atomic_write(folder / "run.trec"))
            batches = _batches(test)
            everything = first_stage.find(batches, self.config.test_depth) if first_stage else ()
            for queries, found in zip(batches, everything, strict=True):
                assert first_stage
                columns: dict[str, list[Any]] = {name: [] for name in tables.RUN.schema.names}
                for query_id, (places, scores) in zip(queries.ids, found, strict=True):
                    self.counts["without_hits"] += folder == self.candidates and not len(places)
                    columns["query_id"] += [query_id] * len(places)
                    columns["doc_id"] += first_stage.passages.named(places)
                    columns["rank"] += range(1, len(places) + 1)
                    columns["score"] += scores.astype(np.float64).tolist()
                writer.write(columns)
                rows = zip(*columns.values(), strict=True)
                trec.write(
                    "".join(f"{query} Q0 {doc} {rank} {score:.6f} {tag}\n" for query, doc, rank, score in rows).encode()
                )
                self.counts["run"] += len(columns["rank"]) if folder == self.candidates else 0
                progress.advance(len(queries.ids))


def _apart(queries: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the queries that train, and those that are held out."""
    held_out = pc.equal(queries.column("origin"), ORIGIN)
    return queries.filter(pc.invert(held_out)), queries.filter(held_out)


def _queries(table: pa.Table) -> Queries:
    return Queries(table.column("query_id").to_pylist(), table.column("text").to_pylist())


def _batches(table: pa.Table) -> list[Queries]:
    """None of them empty."""
    return [_queries(table.slice(first, QUERIES)) for first in range(0, table.num_rows, QUERIES)]
