"""What evidence without judgements is worth: its verdicts on pairs of systems beside those of people's judgements.

    PYTHONPATH=src:. .venv/bin/python -m benchmarks.evidence measure --root FOLDER    # after the students of real_text
    PYTHONPATH=src:. .venv/bin/python -m benchmarks.evidence table --root FOLDER [--runs RUN-FOLDER,...]
    PYTHONPATH=src:. .venv/bin/python -m benchmarks.evidence demo --root FOLDER       # the gate, with and without a test split

Real collections: the targets of `benchmarks.real_text`, where people have judged test queries. Held-out queries are those that
SmolLM2 wrote for documents that no student was trained on. Every two systems (BM25, students, the teacher) are a pair. ``demo``
runs the demo of five seeds that no other test uses, and asks the gate twice: by the target's judgements, and as if it had none.
Nothing was tuned to what comes out.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.real_text.queries import starter, written
from benchmarks.real_text.served import served
from benchmarks.real_text.students import QUERIES, SOURCE, TARGETS, _World
from benchmarks.real_text.weights import MINILM
from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.parsing import parse
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import EvaluateConfig, PromoteConfig, TeacherConfig
from inranker_flow.config.values import EvidenceName
from inranker_flow.evaluation import significance, teaching, unjudged
from inranker_flow.evaluation.gate import Versus, decide, from_measures
from inranker_flow.evaluation.reranking import Reranking
from inranker_flow.evaluation.systems import System
from inranker_flow.generation.held_out import ORIGIN
from inranker_flow.reading import WHOLE
from inranker_flow.stages.retrieve import retrieve

#: Held-out queries of a target, and candidates of each.
HELD_OUT, DEPTH = 100, 20
#: Documents after those whose queries train.
_MORE = 160
SEEDS = (31, 32, 33, 34, 35)
MEASURE = "nDCG@10"
_ALPHA = 0.05
#: (data set, kind of evidence, system) -> query -> value; the kind human is people's.
Measured = dict[tuple[str, str, str], dict[str, float]]


def measure(root: Path) -> None:
    """Measure every student below ``root/students`` and the teacher on the held-out queries, into ``root/evidence``."""
    students = {
        folder.name: folder / "distill_phase2/all/model" if phase2 else folder / "distill_phase1/all/model"
        for folder in sorted((root / "students").iterdir())
        for phase2 in [(folder / "distill_phase2/all/model/training.json").is_file()]
        if phase2 or (folder / "distill_phase1/all/model/training.json").is_file()
    }
    with served(root / MINILM) as address:
        world = _World(root, starter(root), address, "data-evidence")
        joined, labels = [], []
        for name in TARGETS:
            collection, _, labelled = world.pairs(name, "written")
            joined.append((name, collection, _candidates(world, name, collection)))
            labels.append(labelled)
        config = EvaluateConfig(latency_queries=0, shard_pairs=1_000)
        held_out = unjudged.load(joined, [*labels, world.pairs(SOURCE, "source")[2]], config)
        reranking = Reranking(config, held_out.sets, WHOLE)
        for name, folder in students.items():
            reranking.add(System(name, str(folder), "", config.scoring))
        reranking.add(teaching.system(parse(TeacherConfig, world.teacher, "teacher"), labels, WHOLE))
        (root / "evidence").mkdir(exist_ok=True)
        unjudged.measure(held_out, reranking.scored, [], "bm25", root / "evidence")
        reranking.close()


def _candidates(world: _World, name: str, collection: Path) -> Path:
    """Return BM25's candidates for queries of documents after those that train."""
    run = world._run(f"{world.data}/{name}-held-out")
    made = run(
        "generate_queries", name, outputs=("queries", "report"), inputs={"collection": collection},
        configs={
            "config": {**written(world.root), "documents": QUERIES + _MORE}, "retrieval": {},
            "corpus": {"uri": str(world.root / "collections" / name), "name": name},
        },
    ).outputs["queries"]  # fmt: skip
    every = tables.read(tables.QUERIES, made)
    _, _, labels = world.pairs(name, "written")
    trained = pc.unique(tables.read(tables.QUERIES, labels).column("source_doc_id"))
    held = every.filter(pc.invert(pc.is_in(every.column("source_doc_id"), trained)))[:HELD_OUT]
    folder = world.root / "evidence" / name
    origin = pa.array([ORIGIN] * held.num_rows)
    held = held.set_column(held.schema.get_field_index("origin"), held.schema.field("origin"), origin)
    tables.write(tables.QUERIES, folder / "queries" / tables.QUERIES.filename, held)
    write_manifest(folder / "queries", dataset=name, stage="generate_queries")
    retrieve(RetrieveConfig(negatives=0, test_depth=DEPTH), collection, folder / "queries", folder / "candidates")
    return folder / "candidates"


# --- verdicts ---------------------------------------------------------------------------------------------------------


def real(root: Path) -> Measured:
    """Return what was measured on the real targets."""
    found: Measured = {}
    for folder in sorted((root / "students").glob("evaluation*/evaluate/all/evaluation")):
        summary = json.loads((folder / "summary.json").read_text())
        names = {
            name: Path(model["reference"]).parts[-4] for name, model in summary["models"].items() if name != "teacher"
        }
        table = tables.read(tables.MEASURES, folder)
        for system in summary["systems"]:
            for dataset, values in from_measures(table, system, MEASURE).items():
                if dataset in TARGETS:
                    found[dataset, "human", names.get(system, system)] = values
    table = tables.read(tables.EVIDENCE, root / "evidence")
    return found | _evidence(table, "")


def of_run(folder: Path) -> Measured:
    """Return what a run measured on targets that have both, from its folder ``evaluation``."""
    table = tables.read(tables.MEASURES, folder)
    summary = json.loads((folder / "summary.json").read_text())
    found: Measured = {}
    for system in summary["systems"]:
        for dataset, values in from_measures(table, system, MEASURE).items():
            if dataset in summary["unjudged"]:
                found[f"{dataset} of {folder.parts[-3]}", "human", system] = values
    return found | _evidence(tables.read(tables.EVIDENCE, folder), f" of {folder.parts[-3]}")


def _evidence(table: pa.Table, suffix: str) -> Measured:
    found: Measured = {}
    for row in table.to_pylist():
        if row["measure"] == MEASURE:
            found.setdefault((row["dataset"] + suffix, row["evidence"], row["system"]), {})[row["query_id"]] = row[
                "value"
            ]
    return found


def verdict(ours: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[int, float]:
    """Return 1 or -1 for a system that is better or worse beyond luck (two-sided, 5 %) and 0 else; and the mean difference."""
    parts = significance.parts_of([np.array([ours[query] - theirs[query] for query in sorted(ours)])])
    difference = significance.mean(parts)
    return int(np.sign(difference)) if significance.randomisation_p(parts) <= _ALPHA else 0, difference


def show(found: Measured) -> str:
    """Return the table: how often each kind says what people's judgements say."""
    lines = [
        "| evidence | pairs | same verdict | one says nothing | contradicts | same direction | where people see a difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in (*unjudged.MEASURES, "both"):
        rows = list(_compared(found, kind))
        same = [mine == people for mine, people, *_ in rows]
        against = [mine * people < 0 for mine, people, *_ in rows]
        direction = [np.sign(mine) == np.sign(people) for *_, mine, people in rows]
        told = [one for one, (_, people, *_) in zip(direction, rows, strict=True) if people]
        rest = [not a and not b for a, b in zip(same, against, strict=True)]
        lines.append(f"| {kind} | {len(rows)} | {' | '.join(map(_share, (same, rest, against, direction, told)))} |")
    return "\n".join(lines)


def _compared(found: Measured, kind: str) -> Iterator[tuple[int, int, float, float]]:
    """Yield (verdict of this kind, of people, difference by this kind, by people) of every pair of systems."""
    kinds = tuple(unjudged.MEASURES) if kind == "both" else (kind,)
    for dataset in sorted({dataset for dataset, *_ in found}):
        systems = sorted(
            system
            for (name, which, system) in found
            if name == dataset and which == "human" and all((dataset, each, system) in found for each in kinds)
        )
        for first, second in combinations(systems, 2):
            people, by_people = verdict(found[dataset, "human", first], found[dataset, "human", second])
            mine = [verdict(found[dataset, each, first], found[dataset, each, second]) for each in kinds]
            # As the gate asks two kinds together: one shows it, and none speaks against it.
            signs = {sign for sign, _ in mine if sign}
            yield signs.pop() if len(signs) == 1 else 0, people, float(np.mean([each for _, each in mine])), by_people


def _share(values: list[bool]) -> str:
    """Return a share with Wilson's 95 % interval."""
    n, z = len(values), 1.96
    if not n:
        return "-"
    p = sum(values) / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return f"{p:.2f} [{max(low, 0):.2f}, {min(high, 1):.2f}]"


# --- the demo ---------------------------------------------------------------------------------------------------------


def demo(root: Path) -> None:
    """Run the demo of each seed and print the gate's verdict by judgements and without those of the target."""
    print("| seed | target judged | known items and agreement instead | by |\n|---|---|---|---|")
    for seed in SEEDS:
        home = root / f"demo-{seed}"
        done = sorted(home.glob("artifacts/*/evaluate/evaluation/summary.json"))
        if not done:
            command = [
                sys.executable,
                "-m",
                "inranker_flow",
                "run",
                "--runner=process",
                "--profile",
                "demo",
                "--seed",
                str(seed),
            ]
            command += ["--run-dir", str(home), "--set", "evaluation.synthetic_for=all", "inranker"]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": "src:."}, stdout=sys.stderr)
            done = sorted(home.glob("artifacts/*/evaluate/evaluation/summary.json"))
        folder = done[-1].parent
        judged, without = (_gate(folder, target) for target in (True, False))
        print(f"| {seed} | {judged[0]} | {without[0]} | {', '.join(without[1])} |", flush=True)


def _gate(folder: Path, judged: bool) -> tuple[str, tuple[EvidenceName, ...]]:
    """Ask the gate about a first model; ``judged``: by the target's judgements."""
    targets = json.loads((folder / "summary.json").read_text())["unjudged"]
    table, evidence = tables.read(tables.MEASURES, folder), tables.read(tables.EVIDENCE, folder)
    human = {
        system: {
            name: values
            for name, values in from_measures(table, system, MEASURE).items()
            if judged or name not in targets
        }
        for system in ("bm25", "phase2")
    }
    others = {
        kind: Versus(
            *(unjudged.from_evidence(evidence, kind, system, MEASURE) for system in ("bm25", "phase2")), MEASURE
        )
        for kind in unjudged.MEASURES
    }
    found = decide(None, human["phase2"], PromoteConfig(), baseline=human["bm25"], others=others)
    return found.verdict, found.shown_by


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "table", "demo"])
    parser.add_argument("--root", type=Path, required=True, help="folder of benchmarks.real_text")
    parser.add_argument("--runs", default="", help="evaluation folders of runs, separated by commas")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    root = options.root.resolve()
    if options.what == "measure":
        measure(root)
    elif options.what == "demo":
        demo(root)
    else:
        found = real(root) if (root / "evidence").is_dir() else {}
        for run in filter(None, options.runs.split(",")):
            found |= of_run(Path(run).resolve())
        print(show(found))


if __name__ == "__main__":
    main()
