"""The memory that long documents take: what a prompt cannot hold is cut before it is tokenised.

    PYTHONPATH=src:. nice .venv/bin/python benchmarks/long_documents.py --documents 4096 --words 100000

Each stage is a process, as in a run, with the demo's models. Printed is by how much the most memory that it held (`VmHWM` of
/proc/PID/status) is above what it held with all its modules loaded and nothing read, and its seconds.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest

STAGES = ("generate_queries", "teacher_label", "distill")
QUERIES = 64


def make(folder: Path, documents: int, words: int) -> None:
    """A collection of random words, and a pair of each document with one of the queries."""
    draw = random.Random(1)
    known = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5_000)]
    ids = [f"d{number}" for number in range(documents)]
    queries = {f"q{number}": " ".join(draw.choices(known, k=6)) for number in range(QUERIES)}
    collection, candidates = folder / "collection", folder / "candidates"
    collection.mkdir(parents=True)
    with tables.TableWriter(collection / "corpus.parquet", tables.CORPUS) as writer:
        paragraphs = [" ".join(draw.choices(known, k=100)) for _ in range(2_000)]
        for start in range(0, documents, 16):
            some = ids[start : start + 16]
            texts = [" ".join(draw.choices(paragraphs, k=words // 100)) for _ in some]
            writer.write({"doc_id": some, "title": [""] * len(some), "text": texts})
    candidates.mkdir()
    for path in (collection, candidates):
        rows = {"query_id": list(queries), "text": list(queries.values()), "origin": ["supervised"] * QUERIES}
        tables.write(tables.QUERIES, path / "queries.parquet", {**rows, "source_doc_id": [None] * QUERIES})
    pairs = {"query_id": [f"q{number % QUERIES}" for number in range(documents)], "doc_id": ids}
    tables.write(tables.PAIRS, candidates / "pairs.parquet", {**pairs, "role": ["negative"] * documents})
    write_manifest(collection, dataset="long", stage="prepare_corpus")
    write_manifest(candidates, dataset="long", stage="retrieve")


def work(stage: str, folder: Path) -> None:
    """One stage in this process; prints by how many MB its memory grew."""
    import torch
    import transformers  # noqa: F401

    from inranker_flow.config.sections import DistillConfig, GenerateConfig, TeacherConfig
    from inranker_flow.stages.distill import distill
    from inranker_flow.stages.generate_queries import generate_queries
    from inranker_flow.stages.teacher_label import teacher_label

    torch.zeros(1)
    before = held("VmRSS")
    if stage == "generate_queries":
        generator = GenerateConfig("demo:generator", prompt="document", max_new_tokens=4, batch_size=64, max_unusable=1)
        generate_queries(generator, folder / "collection", folder / "queries")
    elif stage == "teacher_label":
        teacher_label(TeacherConfig("demo:teacher"), folder / "collection", folder / "candidates", folder / "labels")
    else:
        student = DistillConfig("demo:student", max_steps=4, batch_size=16, max_length=64)
        distill(student, [folder / "labels"], None, folder / "student")
    print(f"{held('VmHWM') - before:.0f}")


def held(kind: str) -> float:
    """Megabytes of this process."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith(f"{kind}:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--documents", type=int, default=4096)
    parser.add_argument("--words", type=int, default=100_000)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--folder", type=Path, help="where the collection is kept for another run")
    parser.add_argument("--work", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.folder)
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="long-documents-"))
    if not (folder / "candidates" / "manifest.json").exists():
        make(folder, options.documents, options.words)
    for stage in options.stages:
        start = time.monotonic()
        command = [sys.executable, __file__, "--work", stage, "--folder", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(f"{stage}: {done.stdout.split()[-1]} MB, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
