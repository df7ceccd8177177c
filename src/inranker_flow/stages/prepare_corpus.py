"""`prepare_corpus`: read a collection, check it, bring it into one form, fingerprint it.

Everything streams. What grows with the collection is numpy: 16 bytes for each document id, 8 for each text. Judgements
and queries are held as Arrow columns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import manifest, tables
from inranker_flow.artifacts.hashing import Fingerprint, HashSet, contains, hash_rows, priorities
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.corpora import query_log, run_files
from inranker_flow.corpora.columns import Judgements, Queries, good_ids, joined
from inranker_flow.corpora.passage import default_text
from inranker_flow.corpora.passages import as_passages
from inranker_flow.corpora.problems import BROKEN, BadCollection, Problems, Rows
from inranker_flow.corpora.sources import LabelSource, Source, Split, open_source
from inranker_flow.corpora.written import CorpusWriter
from inranker_flow.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareStats:
    """Counts of the collection, and of the rows that were dropped."""

    documents: int
    train_queries: int
    synthetic_queries: int
    test_queries: int
    judgements: int
    published_labels: int
    #: Rows that a repair dropped.
    dropped: int
    #: Documents whose text another document has too, and queries that nobody judged: reported, not mended.
    duplicate_texts: int
    unjudged_queries: int
    #: Judgements of a pair that was judged before, of which the highest grade counts.
    repeated_judgements: int
    fingerprint: str
    #: Queries of a log, which nobody judged (`CorpusConfig.queries`).
    logged_queries: int = 0
    #: Why nothing of it will be evaluated although it holds queries; "" where it will be, or holds documents alone.
    not_evaluated: str = ""


def prepare_corpus(config: PrepareConfig, corpus: CorpusConfig, collection: Path) -> PrepareStats:
    """Write the tables of ``corpus`` to the folder ``collection``, ended by its manifest.

    Raises :class:`UserError` for a collection that is missing or empty, for one with judgements of a split of which none
    can be used, and under ``on_problem=refuse`` for the first kind of broken row (:mod:`.problems` lists them), with file,
    line and count. It is a :class:`.problems.BadCollection` where the fault is in what the collection holds.
    """
    collection.mkdir(parents=True, exist_ok=True)
    for stale in (manifest.FILENAME, *(each.filename for each in (tables.LABELS, tables.PASSAGES, tables.RUN))):
        (collection / stale).unlink(missing_ok=True)
    with open_source(corpus) as (source, labels):
        return _Preparation(config, corpus, collection, source, labels).run()


def _repeated(seen: HashSet, hashes: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return a mask of the ``good`` rows that were seen before, and add the others."""
    repeated = np.zeros(len(hashes), bool)
    repeated[good] = ~seen.add(hashes[good])
    return repeated


class _Preparation:
    """One run of the stage: the parts share the problems found and the sets of hashes."""

    def __init__(
        self, config: PrepareConfig, corpus: CorpusConfig, collection: Path, source: Source, labels: LabelSource | None
    ) -> None:
        self.config, self.corpus, self.collection = config, corpus, collection
        self.source, self.labels = source, labels
        self.problems = Problems(config.on_problem)
        self.fingerprint = Fingerprint()
        nothing = np.empty(0, np.uint64)
        #: Sorted first words of the hashes of: labelled queries, all valid queries, all valid rows of the corpus, and these
        #: with the documents that were cut.
        self.labelled = self.all_queries = self.rows = self.all_documents = nothing
        #: Rows of judgements that there were, good or not.
        self.read: dict[Split, int] = dict.fromkeys(get_args(Split), 0)
        self.some_id = ""

    def run(self) -> PrepareStats:
        """Return the order matters: judgements say which queries stay, and those say which documents must."""
        if self.labels:
            self.labelled = self._labelled_queries(self.labels)
        judgements = self._judgements()
        self.problems.check()
        queries = self._limit(self._queries(judgements))
        judgements.report(
            self.problems,
            "unknown_query",
            ~contains(self.all_queries, judgements.query),
            "no query has the id {query!r}",
        )
        self.problems.check()
        self._check_used(judgements.select(contains(self.all_queries, judgements.query)))
        judgements = judgements.select(contains(np.sort(queries.query), judgements.query))
        documents = self._documents(judgements, self._labelled_documents(queries))
        judgements = judgements.select(contains(self.all_documents, judgements.doc))
        if not (self.config.max_train_queries or self.config.max_test_queries):  # a sample may be out of luck
            self._check_used(judgements)
        labels = self._write_labels(queries)
        # A query may have lost its last judgement to a document that does not exist.
        useful = contains(np.unique(np.concatenate([judgements.query, self.labelled])), queries.query)
        useful |= queries.origin("log")
        for query_id in queries.table.filter(pa.array(~useful)).column("query_id").to_pylist():
            self.problems.add("unjudged_query", self.corpus.uri, 0, f"query {query_id!r} lost its last judgement")
        queries = queries.select(useful)
        self._write_queries(queries, judgements)
        known = self.all_queries, self.all_documents
        lost = run_files.write(self.corpus, self.collection, queries.table, *known, self.problems)
        return self._finish(queries, documents, len(judgements), labels, lost)

    def _hashes(self, ids: list[str]) -> np.ndarray:
        return hash_rows(ids)[:, 0] if ids else np.empty(0, np.uint64)

    # --- published labels: which queries and documents they are about

    def _labelled_queries(self, labels: LabelSource) -> np.ndarray:
        found = [np.empty(0, np.uint64)]
        for rows in labels.labels(self.problems):
            found.append(np.unique(self._hashes(rows.columns[0])))
        self.problems.check()
        return np.unique(np.concatenate(found))

    def _labelled_documents(self, queries: Queries) -> np.ndarray:
        """Return documents that labels of the kept queries are about; only needed where documents are sampled."""
        found = [np.empty(0, np.uint64)]
        if self.labels and self.config.max_documents:
            kept = np.sort(queries.query)
            for rows in self.labels.labels(Problems("repair")):
                about = contains(kept, self._hashes(rows.columns[0]))
                found.append(np.unique(self._hashes(rows.columns[1])[about]))
        return np.unique(np.concatenate(found))

    # --- judgements and queries

    def _judgements(self) -> Judgements:
        """Both splits, each pair once, and without the training side of a query that is in both."""
        parts = [Judgements()]
        files: list[str] = []
        for split in get_args(Split):
            before = self._unreadable()
            part, rows = self._split(split, files)
            self.read[split] = rows + self._unreadable() - before
            parts.append(part)
        judgements = joined(parts, files)
        in_train, in_test = (np.unique(judgements.query[judgements.test == side]) for side in (False, True))
        leaked = ~judgements.test & contains(in_test, judgements.query)
        first = np.zeros(len(judgements), bool)
        first[np.unique(np.where(leaked, judgements.query, 0), return_index=True)[1]] = True
        if np.isin(in_train, in_test).any():
            judgements.report(
                self.problems, "leak", leaked & first, "query {query!r} of the training split is in the test split too"
            )
        return judgements.select(~leaked)

    def _unreadable(self) -> int:
        return sum(self.problems.count(kind) for kind in ("malformed", "wrong_encoding", "bad_relevance"))

    def _split(self, split: Split, files: list[str]) -> tuple[Judgements, int]:
        """Return the judgements of one split, and how many rows they came from; adds the names of their files to ``files``."""
        parts, pairs, repeated = [Judgements()], [np.empty((0, 2), np.uint64)], False
        seen = HashSet()
        for rows in self.source.judgements(split, self.problems):
            query_ids, doc_ids, relevance = rows.columns
            if not query_ids:
                continue
            if not files or files[-1] != rows.file:
                files.append(rows.file)
            pair = hash_rows(query_ids, doc_ids)
            new = seen.add(pair)
            what = "query {0!r} and document {1!r} are judged again, now {2}; the highest grade counts"
            self.problems.add_rows("duplicate_judgement", rows, ~new, what)
            repeated = repeated or not new.all()
            pairs.append(pair)
            parts.append(
                Judgements(
                    pa.chunked_array([query_ids], pa.string()),
                    pa.chunked_array([doc_ids], pa.string()),
                    np.asarray(relevance, np.int32),
                    self._hashes(query_ids),
                    self._hashes(doc_ids),
                    np.full(len(query_ids), split == "test"),
                    np.asarray(rows.lines, np.int64),
                    np.full(len(query_ids), len(files) - 1, np.int32),
                )
            )
        found = joined(parts, files)
        if not repeated:
            return found, len(found)
        # The highest grade first, then as they stand.
        keys = np.concatenate(pairs)
        order = np.lexsort((-found.relevance.astype(np.int64), keys[:, 1], keys[:, 0]))
        first = np.ones(len(found), bool)
        first[1:] = (keys[order][1:] != keys[order][:-1]).any(axis=1)
        keep = np.zeros(len(found), bool)
        keep[order[first]] = True
        return found.select(keep), len(found)

    def _check_used(self, judgements: Judgements) -> None:
        """Refuse a collection that has judgements of a split of which none is used: what that split is for would be lost."""
        for split in get_args(Split):
            files = self.source.judged(split)
            mine = judgements.relevance[judgements.test == (split == "test")]
            if len(mine) or (split == "train" and self.problems.count("leak")):
                if split == "test" and not (mine > 0).any():
                    raise BadCollection(
                        f"{(files or self.source.judged_together)[0]}: none of its {len(mine):,} judgements of the "
                        f"{split} split says relevant (a grade above 0), so that every system would get 0; mend the grades, "
                        "or take them away to go on without them",
                        code="judgements-unusable",
                    )
                continue
            if self.read[split]:
                reasons = ", ".join(
                    f"{self.problems.count(kind):,} {BROKEN[kind]}"
                    for kind in ("malformed", "wrong_encoding", "bad_relevance", "unknown_query", "unknown_document")
                    if self.problems.count(kind)
                )
                raise BadCollection(
                    f"{(files or self.source.judged_together)[0]}: none of its {self.read[split]:,} judgements of the {split} "
                    f"split can be used ({reasons}); {self._ids()}mend them, or take them away to go on without them",
                    code="judgements-unusable",
                )
            if files and (split == "test" or not self.read["test"]):
                raise BadCollection(
                    f"{files[0]}: holds no judgement; fill it, or take it away to go on without a {split} split",
                    code="judgements-empty",
                )
        together = self.source.judged_together
        if together and not any(self.read.values()) and len(self.all_queries):
            raise BadCollection(
                f"{together[0]}: holds no judgement; fill it, or take it away to go on without", code="judgements-empty"
            )

    def _ids(self) -> str:
        """Return examples of ids, for a message about judgements that name others."""
        unknown = self.problems.found.get("unknown_query")
        if not unknown or not self.some_id:
            return ""
        return f"{unknown.examples[0]['what']}, they are like {self.some_id!r}; "

    def _queries(self, judgements: Judgements) -> Queries:
        """Return queries that are judged or labelled, and those that were asked if they are wanted, each with its origin."""
        supervised, test = (np.unique(judgements.query[judgements.test == side]) for side in (False, True))
        seen, kept, hashes = HashSet(), [tables.QUERIES.schema.empty_table()], [np.empty(0, np.uint64)]
        logged = self.corpus.queries != "synthetic" and not self.corpus.log
        for rows in self.source.queries(self.problems):
            ids, texts = rows.columns
            if not ids:
                continue
            good = good_ids(rows, self.problems)
            empty = good & np.array([not text.strip() for text in texts])
            self.problems.add_rows("empty_query", rows, empty, "query {0!r} has no text")
            good &= ~empty
            both = hash_rows(ids)
            repeated = _repeated(seen, both, good)
            self.problems.add_rows("duplicate_query_id", rows, repeated, "query id {0!r} is used again")
            self.some_id = self.some_id or ids[0][:40]
            mine = both[:, 0]
            is_test, is_labelled = contains(test, mine), contains(self.labelled, mine)
            is_supervised = contains(supervised, mine)
            good &= ~repeated
            useful = is_test | is_supervised | is_labelled | logged
            self.problems.add_rows("unjudged_query", rows, good & ~useful, "query {0!r} has no judgement")
            good &= useful
            origin = np.select(
                [is_test, is_supervised, is_labelled], ["test", "supervised", self.source.labelled_origin], "log"
            )
            columns = {"query_id": ids, "text": texts, "origin": origin.tolist(), "source_doc_id": [None] * len(ids)}
            kept.append(pa.table(columns, schema=tables.QUERIES.schema).filter(pa.array(good)))
            hashes.append(mine[good])
        self.all_queries = seen.first_words()
        self.problems.check()
        if self.corpus.log:
            asked = query_log.read(self.corpus, self.problems, self.config.seed)
            kept.append(asked)
            hashes.append(self._hashes(asked.column("query_id").to_pylist()))
        return Queries(pa.concat_tables(kept), np.concatenate(hashes))

    def _limit(self, queries: Queries) -> Queries:
        """Return a random sample of the training, test and logged queries, the same whatever their order in the file."""
        is_test, is_logged = queries.origin("test"), queries.origin("log")
        keep = np.ones(len(queries.query), bool)
        for side, what, limit, setting in (
            (~is_test & ~is_logged, "train queries", self.config.max_train_queries, "corpus.max_train_queries"),
            (is_test, "test queries", self.config.max_test_queries, "corpus.max_test_queries"),
            (is_logged, "logged queries", self.corpus.log_queries, "log_queries"),
        ):
            at = np.flatnonzero(side)
            if limit and len(at) > limit:
                self._tell_limit(setting, limit, len(at), what)
                ids = queries.table.column("query_id").take(pa.array(at)).to_pylist()
                keep[at[np.argsort(priorities(self.config.seed, ids), kind="stable")[limit:]]] = False
        return queries.select(keep)

    def _write_queries(self, queries: Queries, judgements: Judgements) -> None:
        with tables.TableWriter(self.collection / tables.QUERIES.filename, tables.QUERIES) as writer:
            writer.write(queries.table)
        qrels = pa.table(
            {"query_id": judgements.query_id, "doc_id": judgements.doc_id, "relevance": judgements.relevance},
            schema=tables.QRELS.schema,
        )
        with tables.TableWriter(self.collection / tables.QRELS.filename, tables.QRELS) as writer:
            writer.write(qrels)
        for name, table, keys in (
            ("queries", queries.table, ("query_id", "text", "origin")),
            ("qrels", qrels, ("query_id", "doc_id", "relevance")),
        ):
            for batch in table.to_batches(max_chunksize=tables.BATCH_ROWS):
                columns = [pc.cast(batch.column(key), pa.string()).to_pylist() for key in keys]
                self.fingerprint.add(name, hash_rows(*columns))

    # --- documents

    def _documents(self, judgements: Judgements, labelled: np.ndarray) -> int:
        """Write corpus.parquet; returns its rows."""
        needed = np.unique(np.concatenate([judgements.doc, labelled]))
        limit = self._priority_limit(needed) if self.config.max_documents else None
        seen, texts, some_id = HashSet(), HashSet(), ""
        progress = Progress(f"reading {self.corpus.name}", self.source.total, self.source.unit)
        with CorpusWriter(self.collection, self.fingerprint) as writer:
            for rows in self._good_documents(self.problems, seen, texts):
                if limit is not None and rows.lines:
                    drawn = priorities(self.config.seed, rows.columns[0]) < limit
                    rows = rows.select(self._needed(needed, rows) | drawn)
                writer.write(rows)
                some_id = some_id or next((f"{each[0][:40]!r}" for each in rows.columns[::3][-1:] if each), "")
                progress.advance(rows.amount, f"{writer.rows:,} documents")
            self.rows = seen.first_words()
            self.all_documents = np.union1d(self.rows, writer.documents)
            self.problems.check()
            if not writer.rows:
                raise BadCollection(
                    f"{self.corpus.uri}: the corpus is empty; give one that holds documents with text",
                    code="collection-empty",
                )
            unknown = ~contains(self.all_documents, judgements.doc)
            like = some_id.replace("{", "{{").replace("}", "}}")
            what = f"no document has the id {{doc!r}}, they are like {like}"
            judgements.report(self.problems, "unknown_document", unknown, what)
            self.problems.check()
        progress.finish()
        return writer.rows

    def _needed(self, needed: np.ndarray, rows: Rows) -> np.ndarray:
        """Return a mask of the rows that judgements or labels name, by themselves or by their document."""
        return np.logical_or.reduce([contains(needed, self._hashes(each)) for each in rows.columns[::3]])

    def _good_documents(self, problems: Problems, seen: HashSet, texts: HashSet) -> Iterator[Rows]:
        """Yield batches without broken rows; ``seen`` gathers ids, ``texts`` what makes a repeated text noticeable."""
        whole = HashSet()
        for rows in self.source.documents(problems):
            if self.corpus.passage_tokens and len(rows.columns) == 3 and rows.lines:
                # The passages of two documents of one id would be those of one document.
                again = ~whole.add(hash_rows(rows.columns[0]))
                problems.add_rows("duplicate_document_id", rows, again, "document id {0!r} is used again")
                rows = rows.select(~again)
            rows = as_passages(rows, self.corpus)
            ids, titles, bodies, *_ = rows.columns
            if not ids:
                yield rows
                continue
            good = good_ids(rows, self.problems)
            passages = [default_text(title, body) for title, body in zip(titles, bodies, strict=True)]
            empty = good & np.array([not passage for passage in passages])
            problems.add_rows("empty_document", rows, empty, "document {0!r} has no text")
            good &= ~empty
            repeated = _repeated(seen, hash_rows(ids), good)
            problems.add_rows("duplicate_document_id", rows, repeated, "document id {0!r} is used again")
            good &= ~repeated
            # Python's own hash differs between processes and is ten times as fast; it never leaves this one.
            hashes = np.fromiter(map(hash, passages), np.int64, len(passages)).view(np.uint64)[:, None]
            same = _repeated(texts, hashes, good)
            problems.add_rows("duplicate_text", rows, same, "document {0!r} repeats another's text")
            yield rows.select(good)

    def _priority_limit(self, needed: np.ndarray) -> np.uint64 | None:
        """Return the priority below which a document that nobody needs is in the sample; None where all are. Reads all ids."""
        asked, numbers = [np.empty(0, bool)], [np.empty(0, np.uint64)]
        quiet, self.problems = self.problems, Problems("repair")
        for rows in self._good_documents(self.problems, HashSet(), HashSet()):
            asked.append(self._needed(needed, rows))
            numbers.append(priorities(self.config.seed, rows.columns[0]))
        self.problems = quiet
        others = ~np.concatenate(asked)
        free = max(self.config.max_documents - int((~others).sum()), 0)
        candidates = np.concatenate(numbers)[others]
        if len(candidates) <= free:
            return None
        self._tell_limit("corpus.max_documents", free + int((~others).sum()), len(others), "documents")
        return np.partition(candidates, free)[free]

    def _tell_limit(self, setting: str, kept: int, there: int, what: str) -> None:
        log.info("%s: %s of its %s %s are taken (%s)", self.corpus.name, f"{kept:,}", f"{there:,}", what, setting)

    # --- published labels: the table

    def _write_labels(self, queries: Queries) -> int:
        """Write labels.parquet with the labels of the kept queries, as published; returns its rows."""
        if not self.labels:
            return 0
        is_test = queries.origin("test")
        test, train = np.sort(queries.query[is_test]), np.sort(queries.query[~is_test])
        pairs, given = HashSet(), 0
        progress = Progress(f"labels of {self.corpus.name}", self.labels.total, self.labels.unit)
        with tables.TableWriter(self.collection / tables.LABELS.filename, tables.LABELS) as writer:
            for rows in self.labels.labels(Problems("repair")):  # unreadable lines are reported already
                if not rows.columns[0]:
                    continue
                query_ids, doc_ids, *_ = rows.columns
                query, doc = self._hashes(query_ids), self._hashes(doc_ids)
                known, good = contains(self.rows, doc), contains(train, query)
                for kind, bad, what in (
                    ("label_of_test_query", contains(test, query), "query {0!r} is a test query"),
                    ("label_unknown_query", ~contains(self.all_queries, query), "no query has the id {0!r}"),
                    ("label_unknown_document", good & ~known, "no document has the id {1!r}"),
                ):
                    self.problems.add_rows(kind, rows, bad, what)
                good &= known
                repeated = _repeated(pairs, hash_rows(query_ids, doc_ids), good)
                what = "query {0!r} and document {1!r} are labelled a second time"
                self.problems.add_rows("duplicate_label", rows, repeated, what)
                good &= ~repeated
                table = pa.table(list(rows.columns), schema=tables.LABELS.schema).filter(pa.array(good))
                writer.write(table)
                columns = [pc.cast(column, pa.string()).to_pylist() for column in table.columns]
                self.fingerprint.add("labels", hash_rows(*columns) if len(table) else np.empty((0, 2), np.uint64))
                given += len(query_ids)
                progress.advance(rows.amount, f"{writer.rows:,} labels")
            self.problems.check()
            limited = self.config.max_train_queries or self.config.max_documents
            if not writer.rows and not (given and limited):
                raise BadCollection(
                    f"{self.labels.shown}: none of its {given:,} soft labels belongs to a training query and a document of "
                    f"{self.corpus.uri}; give the labels of this collection, or remove the setting labels",
                    code="labels-unusable",
                )
        progress.finish()
        return writer.rows

    def _finish(self, queries: Queries, documents: int, judgements: int, labels: int, lost: list[str]) -> PrepareStats:
        origins = queries.table.column("origin").value_counts().to_pylist()
        count = {each["values"]: each["counts"] for each in origins}
        self.problems.log()
        reason = "" if count.get("test") else self.source.not_evaluated
        if self.read["test"] and not count.get("test"):
            reason = "the test queries that max_test_queries drew lost their judgements; draw more"
        if reason:
            log.warning("%s will NOT be evaluated: %s", self.corpus.name, reason)
        stats = PrepareStats(
            documents=documents,
            train_queries=count.get("supervised", 0),
            synthetic_queries=count.get("synthetic", 0),
            test_queries=count.get("test", 0),
            judgements=judgements,
            published_labels=labels,
            dropped=self.problems.dropped,
            duplicate_texts=self.problems.count("duplicate_text"),
            unjudged_queries=self.problems.count("unjudged_query"),
            repeated_judgements=self.problems.count("duplicate_judgement"),
            fingerprint=self.fingerprint.hexdigest(),
            logged_queries=count.get("log", 0),
            not_evaluated=reason,
        )
        manifest.write_manifest(
            self.collection,
            dataset=self.corpus.name,
            stage="prepare_corpus",
            uri=self.corpus.uri,
            licence=self.corpus.licence,
            refused=self.corpus.refused,
            fingerprint=stats.fingerprint,
            counts={
                name: value
                for name in PrepareStats.__dataclass_fields__
                if isinstance(value := getattr(stats, name), int)
            },
            problems=self.problems.as_list(),
            not_evaluated=reason,
            **({"found_nothing": lost} if lost else {}),
        )
        return stats
