"""The demo's claim on fresh seeds: BM25 < phase 1 < phase 2 <= teacher, each step with its paired p-value.

    PYTHONPATH=src:. .venv/bin/python benchmarks/demo_seeds.py 11 12 13

Each seed is a whole `make run`: new entities, passages, queries and sampling. The three small models are the committed
ones, so the spread over rebuilds of the models is not in these numbers.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from scipy.stats import ttest_rel

from inranker_flow.artifacts import tables
from inranker_flow.evaluation.gate import from_measures
from tests.processes import MAKE_RUN

SYSTEMS = ("bm25", "phase1", "phase2", "teacher")


def main(seeds: list[str]) -> None:
    print(
        "| seed | BM25 | phase 1 | phase 2 | teacher | p: BM25 < 1 | p: 1 < 2 | p: 2 < teacher | source: 1, 2 | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            command = [
                *MAKE_RUN,
                "inranker",
                "--run-dir",
                folder,
                "--seed",
                seed,
            ]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                sys.exit(ended.stdout[-2000:] + ended.stderr)
            seconds = time.monotonic() - start
            (evaluation,) = Path(folder, "artifacts").rglob("evaluation/measures.parquet")
            table = tables.read(tables.MEASURES, evaluation)
        found = {system: from_measures(table, system, "nDCG@10") for system in SYSTEMS}
        target = {system: found[system]["medicines"] for system in SYSTEMS}
        source = {system: _mean(found[system]["inns"]) for system in SYSTEMS}
        means = " | ".join(f"{_mean(target[system]):.3f}" for system in SYSTEMS)
        steps = pairwise(SYSTEMS)
        tests = " | ".join(f"{_p(target[lower], target[higher]):.0e}" for lower, higher in steps)
        print(
            f"| {seed} | {means} | {tests} | {source['phase1']:.3f}, {source['phase2']:.3f} | {seconds:.0f} |",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\nLargest process: {peak:.2f} GiB")


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _p(lower: dict[str, float], higher: dict[str, float]) -> float:
    order = sorted(lower)
    return float(ttest_rel([higher[q] for q in order], [lower[q] for q in order]).pvalue)


if __name__ == "__main__":
    seeds = [each for each in sys.argv[1:] if re.fullmatch(r"\d+", each)]
    main(seeds or ["11", "12", "13"])
