"""`inranker try` and `make try`: a query against the corpus of the last local run, the first stage's best beside the champion's.

inranker try "rooms with a view"
"""

from __future__ import annotations

import logging
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.commands import folder, last_run
from inranker_flow.commands.champion import use_registry
from inranker_flow.commands.command import Parser, listing
from inranker_flow.commands.last_run import LastRun
from inranker_flow.corpora.passage import default_text
from inranker_flow.errors import UserError
from inranker_flow.model_registry import registry
from inranker_flow.reranker import Ranked, Reranker
from inranker_flow.retrieval import first_stages
from inranker_flow.retrieval.first_stage import Queries

#: Passages that are shown of each ranking, and columns of a line at most.
_SHOWN, _WIDTH = 5, 100


@listing
def main(arguments: list[str] | None = None) -> int:
    """Search, rank, print both; returns the exit status."""
    parser = Parser("inranker try")
    parser.add_argument("query", help="what is searched for")
    parser.add_argument("--corpus", default="", help="data set of the run (default: the last, a target)")
    parser.add_argument("--run-dir", default=str(folder.DEFAULT), help="the folder of the local runs")
    options = parser.parse_args(arguments)
    if not options.query.strip():
        raise UserError('QUERY: empty; say what is searched for: make try QUERY="..."', code="setting-missing")
    run_dir = folder.checked(options.run_dir)
    logging.getLogger("inranker_flow").addHandler(logging.NullHandler())  # only the two lists are of interest
    run = last_run.find(run_dir)
    use_registry(run_dir)
    collection, depth = _collection(run, options.corpus)
    name, found = search(run, collection, options.query, depth)
    if not found:
        print(f"{name} finds nothing for {options.query!r}: no passage of {_dataset(collection)} shares a word with it")
        return 0
    champion = registry.champion(run.decision["model"])
    ranked = Reranker(champion.reference if champion else run.student).rank(options.query, [text for text, _ in found])
    who = champion.reference if champion else f"The student of {run.name} (nothing was promoted)"
    print(show(name, found, who, ranked, _dataset(collection)))
    return 0


def search(run: LastRun, collection: Path, query: str, depth: int) -> tuple[str, list[tuple[str, float]]]:
    """Return the name of the run's first stage, and the ``depth`` passages of ``collection`` that it finds, with scores."""
    config = replace(last_run.retrieval_of(run, _dataset(collection)), also=())
    with first_stages.open_first_stage(config, collection, 1) as stage:
        [[(places, scores)]] = stage.find([Queries(["try"], [query])], depth)
        names = stage.passages.named(places)
    texts = _texts(collection, names)
    return first_stages.describe(config), [
        (texts[each], float(score)) for each, score in zip(names, scores, strict=True)
    ]


def show(name: str, found: Sequence[tuple[str, float]], who: str, ranked: Sequence[Ranked], dataset: str) -> str:
    """Return both rankings as text: the first stage's best, then the reranker's with the places that they had before."""
    width = min(shutil.get_terminal_size((80, 24)).columns, _WIDTH)
    lines = [f"{name} on {dataset}: the best {min(_SHOWN, len(found))} of {len(found)}"]
    for place, (text, score) in enumerate(found[:_SHOWN], 1):
        lines += _entry(f"{place:2}       {score:7.2f}  ", text, width)
    lines += ["", f"{who} ranks these {len(found)}"]
    for place, each in enumerate(ranked[:_SHOWN], 1):
        before = each.position + 1
        moved = f"was {before}" if before != place else "same"
        lines += _entry(f"{place:2} {moved:7}{each.score:6.2f}  ", found[each.position][0], width)
    return "\n".join(lines)


def _entry(head: str, text: str, width: int) -> list[str]:
    """Return a passage in two lines at most, behind ``head``."""
    shown = " ".join(text.split())
    lines = textwrap.wrap(shown, max(width - len(head), 20), max_lines=2, placeholder=" …") or [""]
    return [f"{head}{lines[0]}", *(f"{'':{len(head)}}{line}" for line in lines[1:])]


def _collection(run: LastRun, wanted: str) -> tuple[Path, int]:
    """Return the collection that is searched, and how many passages of it the run reranked for a query."""
    names = {_dataset(each): each for each in run.collections}
    if wanted and wanted not in names:
        raise UserError(f"CORPUS: {wanted!r} was not in {run.name}; there is: {', '.join(names)}", code="setting-value")
    chosen = wanted or list(names)[-1]
    candidates = next(each for each in run.candidates if _dataset(each) == chosen)
    ranks = tables.column(tables.RUN, candidates, "rank")
    return names[chosen], int(pc.max(ranks).as_py() or 100)


def _dataset(folder: Path) -> str:
    return read_manifest(folder).dataset


def _texts(collection: Path, names: Sequence[str]) -> dict[str, str]:
    wanted, found = pa.array(names, pa.string()), {}
    for batch in tables.read_batches(tables.CORPUS, collection):
        batch = batch.filter(pc.is_in(batch.column("doc_id"), wanted))
        for row in batch.to_pylist():
            found[row["doc_id"]] = default_text(row["title"], row["text"])
    return found
