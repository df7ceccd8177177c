"""What `prepare_corpus` and `retrieve` take on a large corpus: seconds for each passage, and memory in all.

    PYTHONPATH=src:. nice .venv/bin/python benchmarks/scale.py --passages 100000 1000000

A corpus in BEIR layout is made for each size (random words as in `retrieval.py`), with 10,000 training queries and 1,000 test
queries that are judged. Each stage is a process, as in a run. Its memory is the proportional set size of it and all that it
started, every 0.2 s, mapped files included; seconds are CPU seconds, its children's too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.retrieval import Synthetic

TRAIN, TEST = 10_000, 1_000
STAGES = ("prepare_corpus", "retrieve")
GIB = 2**30


def make(folder: Path, passages: int) -> None:
    """A corpus in BEIR layout; each query is judged relevant to one passage."""
    data = Synthetic(passages, TRAIN + TEST)
    (folder / "qrels").mkdir(parents=True)
    with open(folder / "corpus.jsonl", "w", encoding="utf-8") as file:
        for ids, texts in data.passages():
            lines = ({"_id": id_, "title": "", "text": text} for id_, text in zip(ids, texts, strict=True))
            file.writelines(f"{json.dumps(line)}\n" for line in lines)
    with open(folder / "queries.jsonl", "w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps({'_id': f'q{n}', 'text': text})}\n" for n, text in enumerate(data.queries))
    for split, numbers in (("train", range(TRAIN)), ("test", range(TRAIN, TRAIN + TEST))):
        rows = (f"q{number}\tp{number * (passages // (TRAIN + TEST)):08}\t1\n" for number in numbers)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))


def work(stage: str, folder: Path) -> None:
    """One stage in this process; prints its CPU seconds and its numbers."""
    from inranker_flow.config.retrieval import RetrieveConfig
    from inranker_flow.config.sections import CorpusConfig, PrepareConfig

    before = _cpu()
    if stage == "prepare_corpus":
        from inranker_flow.stages.prepare_corpus import prepare_corpus

        corpus = CorpusConfig(uri=str(folder / "corpus"), name="scale")
        stats: object = prepare_corpus(PrepareConfig(), corpus, folder / "collection")
    else:
        from inranker_flow.stages.retrieve import retrieve

        stats = retrieve(RetrieveConfig(), folder / "collection", None, folder / "candidates")
    print(json.dumps({"cpu": _cpu() - before, "stats": vars(stats)}))


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def memory(root: int) -> int:
    """Bytes that process ``root`` and its descendants hold; what they share is counted once."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    mine = {root}
    while more := {child for child, parent in parents.items() if parent in mine} - mine:
        mine |= more
    total = 0
    for process in mine:
        try:
            rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))
    return total


def measure(stage: str, folder: Path) -> dict[str, float]:
    """CPU and wall seconds, and the most memory, of a stage in a process of its own."""
    command = [sys.executable, __file__, "--work", stage, str(folder)]
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "INRANKER_SCRATCH": str(folder / "scratch")}
    )
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(process.stdout or ()))
    reader.start()
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(0.2)
    reader.join()
    if process.returncode:
        raise SystemExit(f"{stage} failed")
    found = json.loads(output[-1])
    print(f"{stage}: {found['stats']}", flush=True)
    return {"cpu": found["cpu"], "wall": time.monotonic() - start, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--passages", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], Path(options.work[1]))
        return
    found: dict[int, dict[str, dict[str, float]]] = {}
    for passages in options.passages:
        with tempfile.TemporaryDirectory(prefix="scale-") as name:
            make(Path(name) / "corpus", passages)
            found[passages] = {stage: measure(stage, Path(name)) for stage in STAGES}
    print("\n| passages | stage | CPU s | wall s | CPU us for each passage | most memory |\n|---|---|---|---|---|---|")
    each = {}
    for passages, stages in found.items():
        total = {key: sum(stage[key] for stage in stages.values()) for key in ("cpu", "wall")}
        total["peak"] = max(stage["peak"] for stage in stages.values())
        each[passages] = total["cpu"] / passages
        for stage, used in {**stages, "both": total}.items():
            print(
                f"| {passages:,} | {stage} | {used['cpu']:.1f} | {used['wall']:.1f} | {used['cpu'] / passages * 1e6:.0f} | "
                f"{used['peak'] / GIB:.2f} GiB |"
            )
    first, last = options.passages[0], options.passages[-1]
    print(f"\ntime for each passage at {last:,} against {first:,}: {each[last] / each[first]:.2f}")


if __name__ == "__main__":
    main()
