"""`inranker judge`: which of two systems is better for queries that nobody has judged, by the grades of a language model.

    inranker judge served.trec candidate.trec --queries asked.tsv --corpus data/handbook --judge Qwen/Qwen3-8B
    inranker judge models:/inranker@champion out/student --queries asked.txt --corpus data/handbook --judge gpt-oss-120b \\
        --set evaluation.judge.backend=openai --set evaluation.judge.endpoint=http://llm:8000/v1

A run is a file in TREC's form or Parquet; anything else is a model, which reranks what the first stage finds. Grades are kept in
the store: the next comparison pays for new passages alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow import scratch
from inranker_flow.artifacts import tables
from inranker_flow.commands import console
from inranker_flow.commands.command import Parser, command
from inranker_flow.commands.options import sections
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import EvaluateConfig, PrepareConfig
from inranker_flow.corpora import run_files
from inranker_flow.corpora.passage import default_text
from inranker_flow.corpora.problems import Problems, Rows
from inranker_flow.corpora.sources import beir, lines
from inranker_flow.errors import UserError
from inranker_flow.evaluation import measures, runs, significance
from inranker_flow.execution.run_stage import start_logging
from inranker_flow.judging import judged_runs
from inranker_flow.judging.grading import GradeStats, Judge
from inranker_flow.reranker import Reranker
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.retrieve import retrieve
from inranker_flow.storage import uris
from inranker_flow.storage.local import atomic_write

#: Sections whose settings can be given.
_SECTIONS = {"corpus": PrepareConfig, "retrieval": RetrieveConfig, "evaluation": EvaluateConfig}
#: What a run file ends with.
_RUNS = (".trec", ".run", ".txt", ".res", ".tsv", ".parquet", ".gz", ".zst")
#: A difference with a p-value of at most this is no luck.
_ALPHA = 0.05


@command
def main(arguments: list[str] | None = None) -> int:
    """Grade, compare, print; returns the exit status."""
    parser = Parser("inranker judge")
    parser.add_argument(
        "systems", nargs=2, metavar="system", help="run file, or [NAME=]folder, hub id, models:/NAME@ALIAS"
    )
    parser.add_argument("--queries", required=True, help=".jsonl (_id, text), .tsv (id, text) or .txt (one a line)")
    parser.add_argument("--corpus", required=True, help="the documents: folder, table, s3:// or ir_datasets:ID")
    parser.add_argument(
        "--judge", required=True, help="checkpoint, or a served model's name (evaluation.judge.checkpoint)"
    )
    parser.add_argument("--qrels", type=Path, help="file for the grades, as TREC's judgements")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="settings",
        help="of evaluation.judge, evaluation, source (the corpus), corpus, retrieval: see inranker settings",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    data: dict[str, Any] = {
        "source": {"uri": options.corpus},
        "corpus": {"on_problem": "repair"},
        "retrieval": {},
        "evaluation": {"judge": {"checkpoint": options.judge}},
    }
    parsed = sections(data, _SECTIONS, options.settings)
    config: EvaluateConfig = parsed["evaluation"]
    judged_runs.check(config)
    names = _names(options.systems)
    queries = read_queries(options.queries)
    start_logging("judge")
    with scratch.aside(scratch.root() / "judge-command", folder=True) as folder:
        collection = _prepared(parsed, queries, folder)
        found = _Collection(parsed, collection, queries, folder)
        rankings = {name: found.ranking(system) for name, system in zip(names, options.systems, strict=True)}
        asked = judged_runs.chosen(sorted(queries), config.judge.queries)
        wanted = judged_runs.pool(rankings, asked, config.judge.depth)
        texts = found.texts({doc_id for ids in wanted.values() for doc_id in ids}, options.systems)
    judge = Judge(config.judge)
    table, stats = judge.grade(judged_runs.pairs_of(wanted, queries, texts), parsed["source"].name)
    grades = judged_runs.qrels_of(table)
    if options.qrels:
        _write_qrels(options.qrels, grades)
    print("\n".join(_told(config, parsed["source"].name, rankings, grades, stats)))
    judge.close()
    return 0


def read_queries(uri: str) -> dict[str, str]:
    """Return query id -> text of a file. A line of text alone has its number as its id.

    Raises :class:`UserError` naming the line that is none, and for a file without queries.
    """
    path = uris.local_copy(uri)
    if not path.is_file():
        raise UserError(f"QUERIES: {uri}: no file; give .jsonl, .tsv or .txt", code="not-found")
    problems = Problems("refuse")
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith((".jsonl", ".ndjson")):
        found = _once(beir.queries(path, uri, problems))
    elif name.endswith(".tsv"):
        found = _once(lines.batches(path, uri, _columns, 2, problems))
    else:
        texts = (
            text for rows in lines.batches(path, uri, lambda text: (text,), 1, problems) for text in rows.columns[0]
        )
        found = {str(number): " ".join(text.split()) for number, text in enumerate(texts, 1)}
    problems.check()
    if not found:
        raise UserError(f"QUERIES: {uri}: holds no query; give one a line", code="log-empty")
    return found


def _once(batches: Iterator[Rows]) -> dict[str, str]:
    return {query_id: text for rows in batches for query_id, text in zip(*rows.columns, strict=True) if text.strip()}


def _columns(text: str) -> tuple[str, str]:
    query_id, tab, query = text.partition("\t")
    if not tab:
        raise lines.BadLine("has no tab between id and text")
    return query_id.strip(), query.strip()


def _is_run(system: str) -> bool:
    return Path(system).is_file() or (system.endswith(_RUNS) and not Path(system).is_dir())


def _names(systems: Sequence[str]) -> list[str]:
    """Return a name for each system, as it stands in the table."""
    names = [Path(each).name if _is_run(each) else each.partition("=")[0] if "=" in each else each for each in systems]
    return names if len(set(names)) == 2 else [f"{name} ({letter})" for name, letter in zip(names, "AB", strict=True)]


def _prepared(parsed: Mapping[str, Any], queries: Mapping[str, str], folder: Path) -> Path:
    """Return the corpus as a collection whose test queries are the given ones."""
    collection = folder / "collection"
    prepare_corpus(parsed["corpus"], parsed["source"], collection)
    rows = {
        "query_id": list(queries),
        "text": list(queries.values()),
        "origin": ["test"] * len(queries),
        "source_doc_id": [None] * len(queries),
    }
    tables.write(tables.QUERIES, collection / tables.QUERIES.filename, rows)
    return collection


class _Collection:
    """The corpus, and what the systems find in it; the first stage searches once, where a model asks for it."""

    def __init__(self, parsed: Mapping[str, Any], collection: Path, queries: Mapping[str, str], folder: Path) -> None:
        self.parsed, self.collection, self.queries, self.folder = parsed, collection, queries, folder
        self._candidates: pa.Table | None = None

    def ranking(self, system: str) -> pa.Table:
        """Return the run of one system. Raises :class:`UserError` for one that ranks nothing for these queries."""
        run = run_files.read(system) if _is_run(system) else self._reranked(system)
        mine = run.filter(pc.is_in(run.column("query_id"), pa.array(list(self.queries), pa.string())))
        if not mine.num_rows:
            raise UserError(
                f"{system}: ranks nothing for any of the {len(self.queries):,} queries; its ids must be those of the file of "
                "queries",
                code="run-incomplete",
            )
        return mine

    def texts(self, wanted: set[str], systems: Sequence[str]) -> dict[str, str]:
        """Return the texts of documents. Raises :class:`UserError` for one that the corpus lacks."""
        found: dict[str, str] = {}
        for batch in tables.read_batches(tables.CORPUS, self.collection):
            batch = batch.filter(pc.is_in(batch.column("doc_id"), pa.array(list(wanted), pa.string())))
            for doc_id, title, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                found[doc_id] = default_text(title, text)
        if lost := sorted(wanted - found.keys()):
            raise UserError(
                f"{self.parsed['source'].uri}: lacks {len(lost):,} of the {len(wanted):,} documents that are to be graded (the "
                f"first: {lost[0]!r}); give the corpus that {' and '.join(filter(_is_run, systems))} ranked",
                code="reference-lost",
            )
        return found

    def _reranked(self, system: str) -> pa.Table:
        name, equals, reference = system.partition("=")
        model = Reranker(reference if equals and "/" not in name and ":" not in name else system)
        run = self._found()
        ids = run.column("query_id"), run.column("doc_id")
        texts = self.texts(set(ids[1].to_pylist()), [])
        pairs = [
            (self.queries[query_id], texts[doc_id])
            for query_id, doc_id in zip(*(c.to_pylist() for c in ids), strict=True)
        ]
        return runs.rank(*ids, model.score(pairs))

    def _found(self) -> pa.Table:
        if self._candidates is None:
            candidates = self.folder / "candidates"
            corpus = self.parsed["source"]
            retrieve(self.parsed["retrieval"], self.collection, None, candidates, language=corpus.language)
            self._candidates = tables.read(tables.RUN, candidates)
        return self._candidates


def _told(
    config: EvaluateConfig, dataset: str, rankings: judged_runs.Rankings, grades: judged_runs.Qrels, stats: GradeStats
) -> Iterator[str]:
    """Yield what is printed: a table for each measure, the verdict, the grades, what they cost."""
    wanted = measures.told_by_grades(config.measures, config.judge.depth)
    values = {name: judged_runs.by_grades(wanted, grades, run) for name, run in rankings.items()}
    one, other = rankings
    for measure in values[one]:
        means = {dataset: {name: float(np.mean(list(each[measure].values()))) for name, each in values.items()}}
        yield f"{console.results_table(measure, list(rankings), means)}\n"
    headline = config.measures[0]
    differences = np.array([values[other][headline][query] - values[one][headline][query] for query in sorted(grades)])
    found = significance.compare(significance.parts_of([differences]))
    low, high = found.interval
    better = other if found.difference > 0 else one
    verdict = f"{better} is better" if found.p <= _ALPHA else "No difference is shown"
    yield (
        f"{verdict}: {headline} of {other} less that of {one} is {found.difference:+.4f} ({low:+.4f} to {high:+.4f}, p "
        f"{found.p:.4f}, {len(differences):,} queries, {(differences > 0).sum():,} better, {(differences < 0).sum():,} worse)"
    )
    counts = ", ".join(f"{stats.counts.get(str(grade), 0):,} of {grade}" for grade in range(3, -1, -1))
    without = f"; {stats.no_grade:,} without a grade ({stats.refused:,} refused)" if stats.no_grade else ""
    yield f"Grades        {counts}{without}, by {config.judge.checkpoint}: a language model's, no person's"
    yield (
        f"Cost          {stats.calls:,} calls, {stats.tokens:,} tokens written, {stats.seconds:.0f} s; "
        f"{stats.found:,} answers were in the store"
    )


def _write_qrels(path: Path, grades: judged_runs.Qrels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as out:
        for query_id, own in sorted(grades.items()):
            out.write("".join(f"{query_id} 0 {doc_id} {grade}\n" for doc_id, grade in sorted(own.items())).encode())
