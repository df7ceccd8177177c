"""`inranker verify`: what was measured is what serves. An evaluation's candidates are scored once more, by a running server.

    inranker verify http://127.0.0.1:8080

Scores and measures are compared with those of the last local run that measured the version that serves. The status is 0 where
they agree, and 1 where they do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inranker_flow.commands import console, folder, last_run
from inranker_flow.commands.command import FAILED, Parser, command
from inranker_flow.commands.last_run import LastRun
from inranker_flow.commands.serving import URL, state_of
from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import EvaluateConfig, Teacher
from inranker_flow.config.server import ServerConfig
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.evaluation import judged_sets, measures, runs
from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.scoring.rerank_server import RerankServer

#: Requests that are under way at a time, and passages in each.
_CONCURRENCY, _PASSAGES = 4, 100


@dataclass(frozen=True)
class Served:
    """One data set as the server ranks it: measure -> (its mean, the run's), and the differences of all scores."""

    dataset: str
    means: dict[str, tuple[float, float]]
    differences: np.ndarray


@command
def main(arguments: list[str] | None = None) -> int:
    """Replay the last run's candidates through a server and compare; returns the exit status."""
    parser = Parser("inranker verify")
    parser.add_argument("url", nargs="?", default=URL, help="address of the server (default %(default)s)")
    parser.add_argument("--run-dir", default=str(folder.DEFAULT), help="the folder of the local runs")
    parser.add_argument(
        "--system", default="", help="of the evaluation: phase2, champion ... (default: the one that serves)"
    )
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of a score (default %(default)g; bfloat16: 0.1)")
    parser.add_argument("--measure-tolerance", type=float, default=1e-3, help="of a mean (default %(default)g)")
    options = parser.parse_args(arguments)
    run = last_run.find(folder.checked(options.run_dir))
    state = state_of(options.url)
    if not state["serves"]:
        raise NoAnswer(f"URL: {options.url} serves nothing yet; make serving says why", code="server-no-answer")
    system = options.system or measured_as(run, state["serves"])
    if system not in run.summary["systems"]:
        raise UserError(
            f"SYSTEM: {system} was not measured in {run.name}; there is: {', '.join(run.summary['systems'])}",
            code="setting-value",
        )
    print(f"{options.url} serves {state['serves']}; {run.name} measured it as {system}")
    found = list(replay(run, system, options.url, state["name"]))
    rows = [["data set", "measure", "served", "run", "difference"]]
    for each in found:
        for measure, (served, known) in each.means.items():
            rows.append([each.dataset, measure, f"{served:.4f}", f"{known:.4f}", f"{served - known:+.4f}"])
    print(f"\n{console.table(rows)}\n")
    differences = np.concatenate([each.differences for each in found]) if found else np.zeros(0)
    largest = float(differences.max(initial=0.0))
    mean = max((abs(served - known) for each in found for served, known in each.means.values()), default=0.0)
    print(f"{differences.size:,} scores: largest difference {largest:.2g} (allowed {options.tolerance:g})")
    if largest <= options.tolerance and mean <= options.measure_tolerance:
        print("SAME: what was measured is what serves")
        return 0
    print("DIFFERENT: what serves is not what was measured")
    return FAILED


def measured_as(run: LastRun, reference: str) -> str:
    """Return the system of the run's evaluation that ``reference`` is; :class:`UserError` where it measured another."""
    if reference in (run.registered, str(run.student)):
        return str(list(run.summary["students"])[-1])
    for system, each in run.summary["models"].items():
        if each["reference"] == reference:
            return str(system)
    raise UserError(
        f"URL: serves {reference}, which {run.name} did not measure (it registered {run.registered}); give the RUN_DIR of "
        "its run, or --system",
        code="artifact-mismatch",
    )


def replay(run: LastRun, system: str, url: str, name: str) -> Iterator[Served]:
    """Yield each data set of the ``run`` as the server at ``url``, whose model is called ``name``, ranks its candidates."""
    config = parse(EvaluateConfig, run.summary["config"]["evaluation"], "evaluation")
    # The server cuts documents into passages by itself.
    config = replace(config, passage_words=0, passage_stride=0)
    wanted = measures.parse(config.measures)
    server = RerankServer(Teacher(name, backend="server", server=_server(url)), "verify")
    for dataset, collection, candidates in judged_sets.join(run.collections, run.candidates):
        judged = judged_sets.load(dataset, collection, candidates, config)
        if judged is None:
            continue
        scores = judged.best(_scores(server, judged.pairs))
        ranked = runs.rank(judged.run.column("query_id"), judged.run.column("doc_id"), scores)
        means = {
            measure: float(np.mean(list(values.values())))
            for measure, values in measures.per_query(wanted, judged.qrels, ranked).items()
        }
        known = run.summary["datasets"][dataset]["systems"][system]["means"]
        before = _recorded(run.evaluation / "runs" / f"{dataset}.{system}.trec", judged)
        yield Served(dataset, {each: (means[each], known[each]) for each in known}, np.abs(scores - before))


def _server(url: str) -> ServerConfig:
    return ServerConfig(
        endpoint=url, api="tei", scores="logit", request_pairs=_PASSAGES, concurrency=_CONCURRENCY, retries=3
    )


def _scores(server: RerankServer, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    scores = np.empty(len(pairs))
    numbers = {query: number for number, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
    batches = list(server.batches(np.array([numbers[query] for query, _ in pairs], np.int64)))
    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        answers = pool.map(lambda batch: server.ask([pairs[place] for place in batch.tolist()]), batches)
        for batch, answer in zip(batches, answers, strict=True):
            scores[batch] = answer.scores
    return scores


def _recorded(path: Path, judged: JudgedSet) -> np.ndarray:
    """Return the run's scores of the candidates of ``judged``, out of its TREC file."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    known = {(query, document): float(score) for query, _, document, _, score, _ in lines}
    ids = zip(*(judged.run.column(name).to_pylist() for name in ("query_id", "doc_id")), strict=True)
    try:
        return np.array([known[runs.word(query), runs.word(document)] for query, document in ids])
    except KeyError as error:
        raise UserError(
            f"{path}: no score of {json.dumps(error.args[0])}; run again", code="artifact-damaged"
        ) from error
