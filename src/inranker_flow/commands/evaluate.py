"""`inranker evaluate`: measure rerankers on a collection with judgements, beside the first stage whose candidates they rank.

    inranker evaluate data/handbook out/student models:/inranker@champion --out results

It is what a pipeline's evaluation does: the same reading, first stage, measures, tests and page. Each reranker after the first
is compared with the one before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from inranker_flow import scratch
from inranker_flow.commands import console
from inranker_flow.commands.command import Parser, command
from inranker_flow.commands.options import sections
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, EvaluateConfig, PrepareConfig, TeacherConfig
from inranker_flow.config.values import FirstStageName
from inranker_flow.errors import UserError
from inranker_flow.execution.run_stage import start_logging
from inranker_flow.judging import agreement
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.text_files import shown

#: Sections whose settings can be given.
_SECTIONS = {"corpus": PrepareConfig, "retrieval": RetrieveConfig, "evaluation": EvaluateConfig}

#: Characters of a system's name.
_LONGEST = 100


@command
def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table for each measure, write the evidence; returns the exit status."""
    parser = Parser("inranker evaluate")
    parser.add_argument("collection", help="collection with judged test queries: BEIR folder, s3://, ir_datasets:ID")
    parser.add_argument(
        "models", nargs="+", metavar="model", help="[NAME=]folder, hub id, s3:// or models:/NAME@champion"
    )
    parser.add_argument("--out", default="evaluation", help="folder for report.html, measures and TREC runs")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="settings",
        help="of source (the collection), corpus, retrieval, evaluation: see inranker settings",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    parsed = _sections(options.collection, options.settings)
    models = named(options.models)
    out = Path(options.out).expanduser().absolute()
    start_logging("evaluate")
    summary = measure(parsed, models, out)
    for each in summary["measures"]:
        print(f"\n{console.results_table(each, summary['systems'], console.means_of(summary, each))}")
    for line in _judged(summary):
        print(f"\n{line}")
    print(f"\nThe report     {out / 'report.html'}\nThe runs       {out / 'evaluation' / 'runs'}")
    return 0


def _judged(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the means by a judge's grades, apart from those by people's, and how far it agrees with them."""
    judge = summary["judge"]
    for measure in judge.get("measures", ()):
        means = {
            dataset: {system: each["means"][measure] for system, each in found["systems"].items()}
            for dataset, found in judge["datasets"].items()
        }
        yield console.results_table(f"{measure} by the judge", summary["systems"], means)
    for dataset, found in judge.get("datasets", {}).items():
        if found["agreement"]:
            yield f"{dataset}: {agreement.sentence(found['agreement'])}"


def measure(parsed: Mapping[str, Any], models: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Measure ``models`` with the ``parsed`` sections; write report.html and evaluation/ below ``out``; returns the summary.

    Raises :class:`UserError` as the stages do, and if the collection has no judged test queries.
    """
    from inranker_flow.stages.evaluate import evaluate
    from inranker_flow.stages.prepare_corpus import prepare_corpus
    from inranker_flow.stages.retrieve import retrieve

    corpus: CorpusConfig = parsed["source"]
    out.mkdir(parents=True, exist_ok=True)
    with scratch.aside(scratch.root() / "evaluate", folder=True) as folder:
        prepared, candidates = folder / "collection", folder / "candidates"
        found = prepare_corpus(parsed["corpus"], corpus, prepared)
        if not found.test_queries:
            raise UserError(
                f"{corpus.uri}: has no judged test queries (split {corpus.test_split}), so there is nothing to measure; "
                "--set source.test_split=NAME names another split",
                code="collection-split",
            )
        retrieve(parsed["retrieval"], prepared, None, candidates, language=corpus.language)
        evaluation, report = out / "evaluation", out / "report.html"
        evaluate(parsed["evaluation"], TeacherConfig(""), [prepared], [candidates], [], models, "", evaluation, report)
    summary: dict[str, Any] = json.loads((evaluation / "summary.json").read_text(encoding="utf-8"))
    return summary


def _sections(uri: str, settings: Sequence[str]) -> dict[str, Any]:
    """Return the parsed sections by name. Raises :class:`UserError` naming the setting that is wrong."""
    # The training split is of no use here.
    data: dict[str, Any] = {
        "source": {"uri": uri},
        "corpus": {"max_train_queries": 1},
        "retrieval": {},
        "evaluation": {},
    }
    parsed = sections(data, _SECTIONS, settings)
    # There is no teacher: all models are rerankers to be measured.
    return {**parsed, "evaluation": replace(parsed["evaluation"], teacher=False)}


def named(models: Sequence[str]) -> dict[str, Path]:
    """Return name -> folder (or hub id) of each model, in the order given; a name that is not given is the end of the
    address."""
    found: dict[str, Path] = {}
    for text in models:
        name, equals, reference = text.partition("=")
        if not equals or "/" in name or ":" in name:
            name, reference = "", text
        folder = locate(reference) or Path(reference)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", name or reference.rstrip("/").rpartition("/")[2]) or "model"
        if name in found or name in get_args(FirstStageName):
            raise UserError(
                f"{text}: two systems are called {name}; give it a name: NAME={reference}", code="setting-twice"
            )
        if len(name) > _LONGEST:  # it is part of the names of files
            raise UserError(
                f"{shown(text, 60)}: the name of a system has at most {_LONGEST} letters; give it one: "
                f"NAME={shown(reference, 60)}",
                code="name-unusable",
            )
        found[name] = folder
    return found
