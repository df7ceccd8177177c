"""What each filter of the synthetic queries does in the demo: queries that are kept, how many of them their document
answers (the demo's world knows), and phase 2's nDCG@10 on the target.

    PYTHONPATH=src:. .venv/bin/python benchmarks/demo_filters.py 11 12

Each row is a `make run` with one setting changed. The rows of a seed share a folder, so that what comes before the
filter is computed once.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from inranker_flow.artifacts import tables
from inranker_flow.demo.world import answers
from inranker_flow.evaluation.gate import from_measures
from tests.processes import MAKE_RUN

#: Every passage of the demo's target has two queries, 2,400 in all. All rows but the last are with more wrong queries than the
#: profile's own temperature gives, so that there is something to filter.
WILD = "generation.temperature=0.7"
VARIANTS = (
    (WILD,),
    (WILD, "generation.min_query_words=4"),
    (WILD, "generation.drop_copied=true"),
    (WILD, "generation.leak_similarity=0.7"),
    (WILD, "generation.consistency_depth=10"),
    (WILD, "teacher.keep_queries=1200"),
    (WILD, "generation.documents=600"),
    (WILD, "generation.documents=600", "generation.sampling=diverse", "generation.clusters=200"),
    (WILD, "generation.keep_probable=1200"),
    (WILD, "generation.keep_probable=2150"),
    (),
)


def main(seeds: list[str]) -> None:
    print("| seed | setting | queries | answered by their document | phase 2, nDCG@10 |\n|---|---|---|---|---|")
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            for settings in VARIANTS:
                options = [part for setting in settings for part in ("--set", setting)]
                command = [
                    *MAKE_RUN,
                    "inranker",
                    "--run-dir",
                    folder,
                    "--seed",
                    seed,
                    *options,
                ]
                ended = subprocess.run(command, capture_output=True, text=True, check=False)
                if ended.returncode:
                    sys.exit(ended.stdout[-2000:] + ended.stderr)
                values = from_measures(tables.read(tables.MEASURES, _newest(folder, "measures")), "phase2", "nDCG@10")
                target = values["medicines"]
                kept, answered = _answered(_newest(folder, "labels").parent)
                shown = ", ".join(settings) or "as it is"
                mean = sum(target.values()) / len(target)
                print(f"| {seed} | {shown} | {kept:,} | {answered / kept:.1%} | {mean:.3f} |", flush=True)


def _newest(folder: str, table: str) -> Path:
    """The last file of a table that was written; of labels, the target's."""
    found = sorted(Path(folder, "artifacts").rglob(f"{table}.parquet"), key=lambda path: path.stat().st_mtime)
    if table == "labels":
        found = [path for path in found if '"medicines"' in (path.parent / "manifest.json").read_text()]
    return found[-1]


def _answered(labels: Path) -> tuple[int, int]:
    """(synthetic queries, those that their own document answers)."""
    documents = {row["doc_id"]: (row["title"], row["text"]) for row in tables.read(tables.CORPUS, labels).to_pylist()}
    rows = [row for row in tables.read(tables.QUERIES, labels).to_pylist() if row["source_doc_id"]]
    return len(rows), sum(answers("target", *documents[row["source_doc_id"]], row["text"]) for row in rows)


if __name__ == "__main__":
    main([each for each in sys.argv[1:] if each.isdigit()] or ["11", "12"])
