"""The label store at size, and what a small change of a corpus costs.

    PYTHONPATH=src:. .venv/bin/python benchmarks/store.py size [--rows 10000000] [--ask 1000000]
    PYTHONPATH=src:. .venv/bin/python benchmarks/store.py change [--share 0.02] [--queries 2000]
    PYTHONPATH=src:. .venv/bin/python benchmarks/store.py nights [--share 0.02] [--queries 200] [--nights 60]

``size`` fills a store on disk with random keys, in files of 50,000 as labelling puts them, asks for keys of which half are
there, puts the files together and asks again. Each question is a process of its own; memory is what it takes at most,
without the keys that are asked for.

``change`` prepares the Vaswani collection, retrieves and labels it with a small random teacher, changes a share of the
documents, and does it again with the same store: documents that are edited (twelve words more) and ones that are replaced
(by texts of the collection medline, which leave their queries' top 1000). With the same training
queries (a supervised source), and with queries that are made from the texts of a sample of the documents (a synthetic
target: a changed document has a new query too). It counts pairs: with every query's negatives drawn anew, and with those of
the earlier run kept, as `retrain` does it. ``nights`` changes that share of the documents again every night, others each
time, so that what keeping puts off is counted too. Needs the collections in ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, PrepareConfig, TeacherConfig
from inranker_flow.scoring.logits import LOGITS, SCHEMA
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.retrieve import retrieve
from inranker_flow.stages.teacher_label import LabelStats, teacher_label
from inranker_flow.store.kept_rows import ContentStore
from tests import models

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "collections"
FILE_ROWS = 50_000


def size(rows: int, ask: int) -> None:
    """Fill, ask, put together, ask again."""
    with tempfile.TemporaryDirectory() as folder:
        store, generator = ContentStore(folder, SCHEMA), np.random.default_rng(1)
        start, spent = time.perf_counter(), time.process_time()
        for first in range(0, rows, FILE_ROWS):
            keys = _keys(first, min(FILE_ROWS, rows - first))
            logits = generator.normal(size=(len(keys), 2)).astype(np.float32).astype(np.float64)
            store.put(keys, pa.table({name: logits[:, i] for i, name in enumerate(LOGITS)}, schema=SCHEMA))
        print(f"put     {rows:,} rows: {time.perf_counter() - start:.1f} s, {time.process_time() - spent:.1f} CPU s, "
              f"{_bytes(folder) / rows:.1f} bytes a row, {_files(folder)} files")  # fmt: skip
        for _ in range(2):
            _ask(folder, rows, ask)
        start = time.perf_counter()
        replaced = store.compact(2)
        print(f"compact {replaced} files into {_files(folder)}: {time.perf_counter() - start:.1f} s")
        for _ in range(2):
            _ask(folder, rows, ask)


def _keys(first: int, count: int) -> np.ndarray:
    """Keys of the rows from ``first`` on: random bits (SplitMix64) of the row's number."""
    with np.errstate(over="ignore"):
        z = np.arange(2 * first, 2 * (first + count), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))).reshape(-1, 2)


def _files(folder: str) -> int:
    return len(list(Path(folder).glob("*.parquet")))


def _bytes(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).glob("*.parquet"))


def _ask(folder: str, rows: int, ask: int) -> None:
    command = [sys.executable, __file__, "ask", "--folder", folder, "--rows", str(rows), "--ask", str(ask)]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")


def ask(folder: str, rows: int, count: int) -> None:
    """One question: half of the ``count`` keys are among the first ``rows``, the others are not."""
    there, new = _keys(0, rows), _keys(rows, count - count // 2)
    pick = np.random.default_rng(2)
    keys = np.concatenate([there[pick.choice(rows, count // 2, replace=False)], new])
    del there
    keys = keys[pick.permutation(len(keys))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, spent = time.perf_counter(), time.process_time()
    found, table = ContentStore(folder, SCHEMA).find(keys)
    seconds, cpu = time.perf_counter() - start, time.process_time() - spent
    assert found.sum() == count // 2 == table.num_rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"ask     {count:,} keys: {seconds:.1f} s, {cpu:.1f} CPU s, at most {peak / 2**20:.2f} GB "
          f"({max(peak - before, 0) / 2**10:.0f} MB above making the question)")  # fmt: skip


def change(share: float, count: int) -> None:
    """Label a corpus, change ``share`` of its documents, label it again; for fixed and for synthetic queries."""
    before, others = _texts("vaswani"), list(_texts("medline").values())
    picked = sorted(random.Random(1).sample(sorted(before), round(share * len(before))))
    other = dict(zip(picked, others * (1 + len(picked) // len(others)), strict=False))
    edited = {doc_id: f"{before[doc_id]} {' '.join(text.split()[:12])}" for doc_id, text in other.items()}
    asked = random.Random(2).sample(sorted(before), count)
    print(
        f"{len(before):,} documents, {len(picked)} of them changed, {len(set(asked) & set(picked))} of {count} with a query"
    )
    for kind, fixed in (("supervised", True), ("synthetic", False)):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["INRANKER_STORE"] = os.environ["INRANKER_SCRATCH"] = f"{folder}/before"
            earlier = _label(Path(folder), before, _queries(before, asked))[1]
            for name, changes in (("edited", edited), ("replaced", other)):
                texts = {**before, **changes}
                for how, digest in (("drawn anew", ""), ("kept", earlier)):
                    # Each has the labels of the first run and no others.
                    store = f"{folder}/{name}-{how}"
                    shutil.copytree(f"{folder}/before", store)
                    os.environ["INRANKER_STORE"] = os.environ["INRANKER_SCRATCH"] = store
                    stats, _ = _label(Path(folder), texts, _queries(before if fixed else texts, asked), digest)
                    print(f"{kind:10s} {name:8s} {how:10s} {_scored(stats)}", flush=True)


def nights(share: float, count: int, number: int) -> None:
    """Change ``share`` of the documents ``number`` times, with their queries; each run keeps what the one before drew."""
    before, others = _texts("vaswani"), list(_texts("medline").values())
    asked = random.Random(2).sample(sorted(before), count)
    for how in ("drawn anew", "kept"):
        texts, earlier, totals = dict(before), "", []
        with tempfile.TemporaryDirectory() as folder:
            os.environ["INRANKER_STORE"] = os.environ["INRANKER_SCRATCH"] = f"{folder}/store"
            for night in range(number + 1):
                draw = random.Random(f"night {night}")
                if night:
                    for doc_id in draw.sample(sorted(before), round(share * len(before))):
                        texts[doc_id] = f"{before[doc_id]} {' '.join(draw.choice(others).split()[:12])}"
                stats, digest = _label(Path(folder), texts, _queries(texts, asked), earlier)
                earlier = digest if how == "kept" else ""
                totals.append((stats.pairs, stats.pairs - stats.reused_pairs))
        shares = [new / pairs for pairs, new in totals[1:]]
        late = shares[len(shares) // 2 :]
        print(f"{how:10s} {number} nights: {np.mean(shares):.2%} of the pairs scored in the mean, {np.mean(late):.2%} in "
              f"the second half, {max(shares):.2%} at most; {totals[0][0]:,} pairs at first, {totals[-1][0]:,} at last",
              flush=True)  # fmt: skip


def _texts(name: str) -> dict[str, str]:
    lines = (DATA / name / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["_id"]: row["text"] for row in map(json.loads, lines)}


def _queries(texts: dict[str, str], asked: Sequence[str]) -> dict[str, tuple[str, str]]:
    return {f"{doc_id}#q0": (_query(texts[doc_id]), doc_id) for doc_id in asked}


def _scored(stats: LabelStats) -> str:
    new = stats.pairs - stats.reused_pairs
    return f"{stats.pairs:,} pairs, {new:,} scored ({new / stats.pairs:.2%})"


def _query(text: str) -> str:
    words = text.split()
    return " ".join(random.Random(text).sample(words, min(6, len(words))))


def _label(
    folder: Path, texts: dict[str, str], queries: dict[str, tuple[str, str]], earlier: str = ""
) -> tuple[LabelStats, str]:
    """What labelling did, and the digest of the training set."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    corpus = folder / "beir"
    corpus.mkdir(parents=True)
    rows = [json.dumps({"_id": doc_id, "text": text}) for doc_id, text in texts.items()]
    (corpus / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    models.synthetic(folder / "queries", ((query_id, *each) for query_id, each in queries.items()), "vaswani")
    repair = PrepareConfig(on_problem="repair")
    prepare_corpus(repair, CorpusConfig(uri=str(corpus), name="vaswani"), folder / "collection")
    retrieve(RetrieveConfig(), folder / "collection", folder / "queries", folder / "candidates", earlier)
    teacher = TeacherConfig(checkpoint="init:tiny?seed=1")
    stats = teacher_label(teacher, folder / "collection", folder / "candidates", folder / "labels")
    digest = read_manifest(folder / "labels").content
    shutil.rmtree(folder)
    return stats, digest


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["size", "change", "nights", "ask"])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--ask", type=int, default=1_000_000)
    parser.add_argument("--share", type=float, default=0.02)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--folder", default="", help="of `ask`, which the others start")
    options = parser.parse_args(arguments)
    if options.what == "size":
        size(options.rows, options.ask)
    elif options.what == "ask":
        ask(options.folder, options.rows, options.ask)
    elif options.what == "nights":
        nights(options.share, options.queries, options.nights)
    else:
        change(options.share, options.queries)


if __name__ == "__main__":
    main()
