"""`inranker collection`: what a run would read of a collection, and the same as a folder in BEIR layout.

    inranker collection docs/ --to data/handbook
    inranker collection shop.csv --set 'source.fields={id: sku, title: name, text: "{about} {brand}"}'

It is read as `prepare_corpus` reads it, with broken rows dropped and counted.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from inranker_flow import scratch, words
from inranker_flow.artifacts import manifest, tables
from inranker_flow.commands.command import Parser, listing
from inranker_flow.commands.options import sections
from inranker_flow.config.parsing import without_defaults
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.corpora import run_files
from inranker_flow.corpora.folders import WISHES
from inranker_flow.corpora.passage import default_text
from inranker_flow.corpora.problems import BROKEN, HARMLESS
from inranker_flow.corpora.sources import layout
from inranker_flow.errors import UserError
from inranker_flow.execution.run_stage import start_logging
from inranker_flow.settings.profile import split
from inranker_flow.stages.prepare_corpus import PrepareStats, prepare_corpus
from inranker_flow.storage.local import atomic_folder

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: Passages that are shown, and characters of each.
_SAMPLES, _SHOWN = 5, 160
#: Letters of a text that say its script.
_LETTERS = 200
#: Settings of a collection that say nothing of the folder that was made of it: its files are as they should be.
_WRITTEN = {
    "uri", "fingerprint", "labels", "train_split", "test_split", "log", "log_queries", "fields", "passage_tokens",
    "passage_overlap", "runs", "text_fields", "query_fields",
}  # fmt: skip
_LABELS = "labels.jsonl"
#: What a text must not tell a terminal.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@listing
def main(arguments: list[str] | None = None) -> int:
    """Print what the collection holds, and write it where that is asked for; returns the exit status."""
    parser = Parser("inranker collection")
    parser.add_argument("uri", metavar="from", help="folder, table, s3://, hf://datasets/OWNER/NAME or ir_datasets:ID")
    parser.add_argument("--to", type=Path, help="folder that is made of it, in BEIR layout")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="settings",
        help="of source (the collection) or corpus: see inranker settings source",
    )  # fmt: skip
    parser.add_argument("--settings", default="", dest="line", help="several of --set in one line")
    options = parser.parse_args(arguments)
    data = {"source": {"uri": options.uri}, "corpus": {"on_problem": "repair"}}
    parsed = sections(data, {"corpus": PrepareConfig}, [*split(options.line), *options.settings])
    if options.to and options.to.exists() and (not options.to.is_dir() or any(options.to.iterdir())):
        raise UserError(f"TO: {options.to}: is there already; give another name", code="folder-not-empty")
    start_logging("collection")
    with scratch.aside(scratch.root() / "collection", folder=True) as folder:
        stats = prepare_corpus(parsed["corpus"], parsed["source"], folder)
        seen = _look(folder, stats)
        print("\n".join(_described(parsed["source"], stats, seen, folder)))
        if options.to:
            with atomic_folder(options.to) as out:
                _write(folder, out)
            print(f"\nWritten       {options.to}")
        print(f"\nNext          {_next(parsed['source'], stats, seen, options.to)}")
    return 0


@dataclass
class _Seen:
    """What the passages are like."""

    lengths: np.ndarray
    scripts: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, str]] = field(default_factory=list)
    #: Documents whose passages these are; 0 where each row is one.
    documents: int = 0


def _look(folder: Path, stats: PrepareStats) -> _Seen:
    lengths: list[np.ndarray] = []
    seen = _Seen(np.empty(0, np.int64))
    shown = {number * stats.documents // _SAMPLES for number in range(min(_SAMPLES, stats.documents))}
    start = 0
    for batch in tables.read_batches(tables.CORPUS, folder):
        rows = batch.to_pylist()
        texts = [default_text(row["title"], row["text"]) for row in rows]
        lengths.append(np.array([words.count(text) for text in texts], np.int32))
        seen.scripts.update(words.main_script(text[:_LETTERS]) for text in texts)
        seen.samples += [rows[number - start] for number in sorted(shown) if start <= number < start + len(rows)]
        start += len(rows)
    seen.lengths = np.concatenate(lengths)
    if (folder / tables.PASSAGES.filename).is_file():
        seen.documents = len(tables.column(tables.PASSAGES, folder, "document_id").unique())
    return seen


def _described(corpus: CorpusConfig, stats: PrepareStats, seen: _Seen, folder: Path) -> Iterator[str]:
    of = f" of {seen.documents:,} documents" if seen.documents else ""
    yield f"{corpus.uri}: {stats.documents:,} passages{of}"
    told = ", ".join(f"{share:.0%} {int(np.quantile(seen.lengths, share, method='lower')):,}" for share in _QUANTILES)
    yield f"\nLengths       {told}, longest {int(seen.lengths.max()):,} (tokens: words, as words.py counts them)"
    scripts = ", ".join(f"{name} {count / stats.documents:.1%}" for name, count in seen.scripts.most_common(_SAMPLES))
    yield f"Scripts       {scripts}"
    problems = manifest.read_manifest(folder).details["problems"]
    for each in problems:
        what = {**BROKEN, **HARMLESS}[each["kind"]]
        first = each["examples"][0]
        dropped = "Dropped" if each["kind"] in BROKEN else "Found"
        yield f"{dropped:<14}{each['count']:,} {what}, the first: {first['file']} line {first['line']}: {first['what']}"
    if not any(each["kind"] in ("duplicate_text", "empty_document") for each in problems):
        yield "Found         no empty and no repeated text"
    yield f"Judgements    {_judgements(stats)}"
    if stats.logged_queries:
        yield f"Log           {stats.logged_queries:,} queries that people asked"
    if stats.published_labels:
        yield f"Labels        {stats.published_labels:,} soft labels"
    for each in seen.samples:
        text = " ".join(default_text(each["title"], each["text"]).split())
        shown = f"{text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''}"
        yield f"\n{layout.printable(each['doc_id'])}\n  {_CONTROLS.sub(lambda found: ascii(found[0])[1:-1], shown)}"


def _judgements(stats: PrepareStats) -> str:
    if not stats.judgements:
        return f"none that is used{f': {stats.not_evaluated}' if stats.not_evaluated else '; a target needs none'}"
    test = f"{stats.test_queries:,} test queries measure the students"
    test = f"will NOT be evaluated: {stats.not_evaluated}" if stats.not_evaluated else test
    return f"{stats.judgements:,}: {stats.train_queries:,} training queries (of a source), {test}"


def _next(corpus: CorpusConfig, stats: PrepareStats, seen: _Seen, to: Path | None) -> str:
    """Return the command that trains on the collection."""
    # Phase 1 learns from judged queries alone.
    role = "source" if stats.train_queries and corpus.queries == "synthetic" else "target"
    data: dict[str, Any] = without_defaults(corpus)
    del data["name"]
    if to:
        data = {key: value for key, value in data.items() if key not in _WRITTEN}
        data |= {"uri": str(to), **({"fields": {"document": "document"}} if seen.documents else {})}
        data |= {"labels": f"soft-labels:{to / _LABELS}"} if stats.published_labels else {}
        data |= {"runs": [run_files.address(corpus, name) for name in corpus.runs]} if corpus.runs else {}
    if set(data) == {"uri"} and shlex.quote(data["uri"]) == data["uri"]:
        return f"make run {'SOURCE' if role == 'source' else 'TARGETS'}={data['uri']}"
    written = json.dumps(data, ensure_ascii=False)
    return f"make run SET={shlex.quote(f'source={written}' if role == 'source' else f'targets=[{written}]')}"


# --- BEIR's layout ----------------------------------------------------------------------------------------------------


def _write(folder: Path, out: Path) -> None:
    """Write the tables in ``folder`` to ``out``: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv, and labels.jsonl."""
    parts = (folder / tables.PASSAGES.filename).is_file()
    passages = tables.read_batches(tables.PASSAGES, folder) if parts else iter(())
    documents = (each for batch in passages for each in batch.column("document_id").to_pylist())
    with (out / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for batch in tables.read_batches(tables.CORPUS, folder):
            for row in batch.to_pylist():
                of = {"document": next(documents)} if parts else {}
                _line(file, {"_id": row["doc_id"], "title": row["title"], "text": row["text"], **of})
    if (folder / tables.LABELS.filename).is_file():
        with (out / _LABELS).open("w", encoding="utf-8") as file:
            for batch in tables.read_batches(tables.LABELS, folder):
                for row in batch.to_pylist():
                    _line(file, row)
    if parts:
        (out / WISHES).write_text("fields: {document: document}\n", encoding="utf-8")
    queries = tables.read(tables.QUERIES, folder).to_pylist()
    if not queries:
        return
    with (out / "queries.jsonl").open("w", encoding="utf-8") as file:
        for row in queries:
            _line(file, {"_id": row["query_id"], "text": row["text"]})
    (out / "qrels").mkdir()
    judged = tables.read(tables.QRELS, folder).to_pylist()
    for origin, name in (("supervised", "train"), ("test", "test")):
        own = {row["query_id"] for row in queries if row["origin"] == origin}
        lines = [
            f"{row['query_id']}\t{row['doc_id']}\t{row['relevance']}\n" for row in judged if row["query_id"] in own
        ]
        if lines:
            text = "".join(["query-id\tcorpus-id\tscore\n", *lines])
            (out / "qrels" / f"{name}.tsv").write_text(text, encoding="utf-8")


def _line(file: IO[str], row: dict[str, Any]) -> None:
    file.write(f"{json.dumps(row, ensure_ascii=False)}\n")
