"""`inranker plan` and `make plan`: what a run will take, before anything is started; on the cluster nothing is touched.

inranker plan inranker --profile paper --device H100
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inranker_flow.commands import console
from inranker_flow.commands.command import Parser, command
from inranker_flow.commands.folder import DEFAULT, checked
from inranker_flow.commands.options import add_options, resolve
from inranker_flow.config.cluster import ClusterConfig
from inranker_flow.config.parsing import as_dict
from inranker_flow.config.sections import CorporaConfig, CorpusConfig
from inranker_flow.corpora.folders import look_below, read_wishes
from inranker_flow.errors import UserError
from inranker_flow.planning import speed
from inranker_flow.planning.planner import START_SECONDS, STORED_CHARACTER, STORED_LABEL, make_plan
from inranker_flow.planning.plans import Plan, Row
from inranker_flow.planning.speed import Sample, Speed, Work
from inranker_flow.settings.profile import Profile
from inranker_flow.storage.local import atomic_write

HERE = "here"


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the plan; returns the exit status."""
    return print_plan(arguments, lambda _pipeline, _profile, _targets: [])


def print_plan(arguments: list[str] | None, notes: Callable[[str, Profile, int], list[str]]) -> int:
    """Print the plan that the options ask for; ``notes`` says more of a pipeline, a profile and a number of targets."""
    parser = Parser("inranker plan")
    add_options(parser)
    parser.add_argument("--device", default="", help="what computes: a GPU of the table, cpu, or here")
    parser.add_argument("--calibrate", choices=["0", "1"], help="measure here: never, or however long it takes")
    parser.add_argument("--run-dir", default=str(DEFAULT), help="whose MLflow database tells earlier speeds")
    parser.add_argument("--json", type=Path, help="write it to this file too")
    options = parser.parse_args(arguments)
    database = checked(options.run_dir) / "mlflow.db"
    if options.json and options.json.is_dir():
        raise UserError(f"JSON: {options.json}: a folder; give a file", code="setting-value")
    resolved = resolve(options)
    sections, more = with_corpora(options.pipeline, resolved)
    device = _device(options.device, sections, resolved.cluster)
    asked = _Speeds(device, options.device == HERE, options.calibrate, database)
    # What cannot fit is refused before its collections are read and counted.
    more = [*more, *notes(options.pipeline, resolved, len(sections.targets))]
    plan = make_plan(sections, device, resolved.cluster.gpu_hour_price, asked)
    plan.notes.extend(more)
    print(show(plan))
    if options.json:
        with atomic_write(options.json) as out:
            out.write(json.dumps(plan.as_data(), indent=1).encode())
    return 0


def outline(pipeline: str, profile: Profile, database: Path, device: str = "") -> Plan:
    """Return the plan without measurements, for `make run` (speeds of earlier runs on this machine alone) and for a cluster's
    ``device`` (by size, too)."""
    sections, more = with_corpora(pipeline, profile)
    plan = make_plan(sections, device or HERE, profile.cluster.gpu_hour_price, _Known(device, database))
    plan.notes.extend(more)
    return plan


def with_corpora(pipeline: str, profile: Profile) -> tuple[Profile, list[str]]:
    """Return the profile; for `retrain` with every corpus below its prefix, and what is to be said of that."""
    if pipeline != "retrain":
        return profile, []
    profile.check_for(pipeline)
    found, notes = _below(profile.corpora)
    planned = replace(profile, targets=(*profile.targets, *found))
    return planned, [*notes, "retrain: for a night when it is due; else it ends after a CPU minute"]


def _below(config: CorporaConfig) -> tuple[list[CorpusConfig], list[str]]:
    """Return the corpora below a prefix as `discover` will read them, and what will be left out."""
    found, notes = [], []
    for folder in look_below(config):
        try:
            wishes = read_wishes(folder)
        except UserError as error:
            notes.append(f"{folder.name}: left out, as discover will: {error}")
            continue
        if not folder.holds_documents:
            notes.append(f"{folder.name}: left out, as discover will: it holds no documents")
            continue
        found.append(CorpusConfig(folder.uri, folder.name, **as_dict(wishes)))
    return found, notes


def _device(wanted: str, profile: Profile, cluster: ClusterConfig) -> str:
    """Return the name of what will compute: by default this machine's where all models are on it, else the cluster's."""
    checkpoints = [each.checkpoint for each in profile.teacher.all if each.backend == "local"]
    checkpoints += [profile.generation.checkpoint] if profile.generation.backend != "crop" else []
    checkpoints += [profile.phase1.checkpoint]
    checkpoints += [profile.retrieval.dense.checkpoint] if profile.retrieval.encoder else []
    if wanted == HERE or (not wanted and all(map(speed.is_here, checkpoints))):
        return speed.this_device()
    device = wanted or (cluster.gpu_model if cluster.gpus else "cpu")
    speed.check_device(device)
    return device


class _Known:
    """Speeds of earlier runs; where there is none and ``device`` is named, by size."""

    def __init__(self, device: str, database: Path) -> None:
        self.device, self.database = device, database
        self._silent = False

    def __call__(self, work: Work, section: Any, sample: Sample) -> Speed:
        return self._history(work, section) or self._by_size(work, section, sample)

    def _history(self, work: Work, section: Any) -> Speed | None:
        if self._silent:
            return None
        try:
            return speed.by_history(work, section.checkpoint, self.device, self.database)
        except UserError:  # a plan needs no server
            self._silent = True
            return None

    def _by_size(self, work: Work, section: Any, sample: Sample) -> Speed:
        if not self.device:
            return Speed(0.0, f"{section.checkpoint}: no earlier run tells its speed here; make plan measures it")
        if self.device not in speed.DEVICES:
            return Speed(0.0, f"{section.checkpoint}: nothing is known of {self.device}")
        return speed.by_size(work, section.checkpoint, self.device, sample, getattr(section, "batch_size", 1))


class _Speeds(_Known):
    """Speeds measured here where the model and the device are here; else as known."""

    def __init__(self, device: str, here: bool, calibrate: str | None, database: Path) -> None:
        super().__init__(device, database)
        self.here, self.calibrate = here, calibrate

    def __call__(self, work: Work, section: Any, sample: Sample) -> Speed:
        return self._measured(work, section, sample) or super().__call__(work, section, sample)

    def _measured(self, work: Work, section: Any, sample: Sample) -> Speed | None:
        if self.calibrate == "0" or not speed.is_here(section.checkpoint) or self.device != speed.this_device():
            return None
        measure: Any = {
            "score": speed.measure_scoring,
            "generate": speed.measure_generation,
            "train": speed.measure_training,
        }.get(work)
        if measure is None:
            return None
        found: Speed | None = measure(section, sample, self.calibrate == "1")
        return found


def show(plan: Plan) -> str:
    """Return the table, and under it what is assumed."""
    hours = f"hours on {plan.device}" if plan.device == "cpu" else f"GPU-hours ({plan.device})"
    head = ["collection", "stage", "documents", "queries", "pairs", "tokens", hours, "stored"]
    rows = [[*head, "price"] if plan.price else head]
    for row in (*plan.rows, plan.total):
        cells = [row.collection or ("all" if row.stage != "total" else ""), row.stage]
        cells += [f"{number:,}" if number else "" for number in (row.documents, row.queries, row.pairs, row.tokens)]
        cells += [_hours(row), _bytes(row.stored)]
        rows.append([*cells, _price(plan, row)] if plan.price else cells)
    table = console.table(_both_left(rows))
    notes = "\n".join(f"- {note}" for note in dict.fromkeys([*plan.notes, *_span(plan), *_always(plan)]))
    return f"{table}\n\n{notes}"


def _both_left(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return collection and stage as one column, which the table aligns to the left."""
    width = max(len(row[0]) for row in rows)
    return [[f"{row[0]:{width}}  {row[1]}", *row[2:]] for row in rows]


def _span(plan: Plan) -> list[str]:
    """Return the lines about the hours of GPU tasks, with the profile's number of pods."""
    if plan.workers == 1 or not plan.span:
        return []
    return [
        f"{_number(plan.span)} hours from the first of these tasks to the end of the last with cluster.workers "
        f"{plan.workers}, where no pod waits for a GPU; without searching, starting pods and carrying artifacts"
    ]


def _always(plan: Plan) -> list[str]:
    notes = [
        "without reuse: labels, queries and results that are there already cost nothing; the plan cannot know them",
        "the total counts documents once, queries where they are searched, and pairs where the teacher labels them",
        "none of the generated queries is dropped, and the first stage finds every negative",
        f"stored: {STORED_CHARACTER} bytes a character, {STORED_LABEL} a label, 4 a weight (assumed); what "
        "earlier runs left is not in it",
        f"hours: {START_SECONDS} seconds in each for a task's start (assumed)",
    ]
    if not plan.price:
        notes.append("no price: SET=cluster.gpu_hour_price=... is that of one GPU for an hour")
    return notes


def _hours(row: Row) -> str:
    if row.hours is None:
        return "?"
    return _number(row.hours) if row.hours else ""


def _number(hours: float) -> str:
    return f"{hours:,.2f}" if hours >= 0.01 else f"{hours:.4f}"


def _price(plan: Plan, row: Row) -> str:
    cost = plan.cost(row)
    return "?" if cost is None else f"{cost:,.2f}" if cost else ""


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if number else ""
        number /= 1000
    return f"{number:,.1f} TB"
