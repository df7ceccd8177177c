"""The dense first stage against its peers: exact search against faiss, embedding against sentence-transformers.

    python benchmarks/dense.py search --faiss /path/to/venv/bin/python   # with faiss-cpu and numpy
    python benchmarks/dense.py embed --model FOLDER --collection FOLDER
    python benchmarks/dense.py again --model FOLDER --collection FOLDER  # 2 % of the passages changed
    python benchmarks/dense.py quality --model FOLDER --collections FOLDER ...

Both sides of a comparison take turns with the same threads, and the median of the ratios counts. On a busy machine take
``--threads 1 --cpu``: seconds of the CPU, which others do not lengthen.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inranker_flow.artifacts import tables
from inranker_flow.config.retrieval import DenseConfig, RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.corpora.passage import default_text
from inranker_flow.retrieval.bi_encoder import BiEncoder
from inranker_flow.retrieval.nearest import Nearest
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.retrieve import retrieve

#: The peer: reads the same vectors, and answers each line (threads, depth) with its seconds for all queries, and the CPU's.
_FAISS = """
import sys, time
import faiss, numpy as np
vectors, queries = (np.load(name, mmap_mode="r") for name in sys.argv[1:3])
if sys.argv[4] == "blas":
    faiss.cvar.distance_compute_blas_threshold = 1  # by itself only for more queries
index = faiss.IndexFlatIP(vectors.shape[1])
for first in range(0, len(vectors), 65536):
    index.add(np.ascontiguousarray(vectors[first : first + 65536]))
queries = np.ascontiguousarray(queries)
print("ready", flush=True)
for line in sys.stdin:
    threads, depth = map(int, line.split())
    faiss.omp_set_num_threads(threads)
    start = (time.perf_counter(), time.process_time())
    scores, places = index.search(queries, depth)
    spent = (time.perf_counter() - start[0], time.process_time() - start[1])
    np.save(sys.argv[3], places)
    print(*spent, flush=True)
"""


#: Seconds that count; ``--cpu`` makes them those of this process.
CLOCK: Callable[[], float] = time.perf_counter


def search(options: argparse.Namespace) -> None:
    """Print queries a second of both, and whether they find the same."""
    import torch

    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        vectors, queries, found = (Path(folder, f"{name}.npy") for name in ("vectors", "queries", "found"))
        mapped = np.lib.format.open_memmap(vectors, "w+", np.float32, (options.passages, options.dimensions))
        for first in range(0, options.passages, 2**16):
            part = generator.standard_normal(mapped[first : first + 2**16].shape, np.float32)
            mapped[first : first + 2**16] = part / np.linalg.norm(part, axis=1, keepdims=True)
        mapped.flush()
        del mapped
        asked = generator.standard_normal((options.queries, options.dimensions), np.float32)
        np.save(queries, asked / np.linalg.norm(asked, axis=1, keepdims=True))
        asked = np.load(queries)
        command = [options.faiss, "-c", _FAISS, str(vectors), str(queries), str(found), options.way]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert peer.stdin and peer.stdout and peer.stdout.readline() == "ready\n"
        ours = Nearest(np.load(vectors, mmap_mode="r"), torch.device("cpu"))
        torch.set_num_threads(options.threads)
        for depth in options.depths:
            ratios, mine = [], []
            for _ in range(options.rounds):
                start = CLOCK()
                hits = ours.find(asked, depth)
                spent = CLOCK() - start
                peer.stdin.write(f"{options.threads} {depth}\n")
                peer.stdin.flush()
                ratios.append(float(peer.stdout.readline().split()[options.cpu]) / spent)
                mine.append(len(asked) / spent)
            theirs = np.load(found)
            same = np.mean(
                [len(set(a.tolist()) & set(b.tolist())) / depth for (a, _), b in zip(hits, theirs, strict=True)]
            )
            print(
                f"depth {depth}: {statistics.median(mine):.1f} queries/s, {statistics.median(ratios):.2f} times faiss "
                f"({min(ratios):.2f} to {max(ratios):.2f}), {same:.2%} of the passages are faiss's"
            )
        peer.stdin.close()
        peer.wait()
    print(
        f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, the mapped vectors included"
    )


def embed(options: argparse.Namespace) -> None:
    """Print passages a second of both, and how far their vectors are apart."""
    import torch
    from sentence_transformers import SentenceTransformer

    texts = _texts(options.collection)
    random.Random(0).shuffle(texts)
    texts = texts[: options.passages]
    torch.set_num_threads(options.threads)
    theirs = SentenceTransformer(str(options.model), device="cpu")
    ours = BiEncoder(DenseConfig(str(options.model)))
    ratios, speeds = [], []
    apart = 0.0
    ours.passages(texts[:8]), theirs.encode_document(texts[:8])
    for number in range(options.rounds):
        part = texts[number :: options.rounds]
        mine, one = _timed(lambda part=part: ours.passages(part))
        other, expected = _timed(lambda part=part: theirs.encode_document(part))
        ratios.append(other / mine)
        speeds.append(len(part) / mine)
        apart = max(apart, float(np.abs(one - expected).max()))
    print(
        f"{statistics.median(speeds):.1f} passages/s, {statistics.median(ratios):.2f} times sentence-transformers "
        f"({min(ratios):.2f} to {max(ratios):.2f}), vectors {apart:.1e} apart at most"
    )


def again(options: argparse.Namespace) -> None:
    """Print how many passages are embedded when a part of a collection has changed."""
    counted = 0
    passages = BiEncoder.passages

    def counting(self: BiEncoder, texts: Sequence[str]) -> np.ndarray:
        nonlocal counted
        counted += len(texts)
        return passages(self, texts)

    BiEncoder.passages = counting  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        os.environ |= {"INRANKER_STORE": f"{folder}/store", "INRANKER_SCRATCH": f"{folder}/scratch"}
        collection = _prepared(options.collection, Path(folder, "before"))
        rows = tables.read(tables.CORPUS, collection).to_pylist()
        for what in ("at first", "again", f"{options.share:.0%} changed"):
            if "changed" in what:
                for row in random.Random(1).sample(rows, round(options.share * len(rows))):
                    row["text"] += " It has changed."
                tables.write(tables.CORPUS, collection / tables.CORPUS.filename, _columns(rows))
                _rewrite(collection)
            counted = 0
            spent, _ = _timed(lambda: retrieve(_dense(options.model), collection, None, Path(folder, "out")))
            print(f"{what}: {counted:,} of {len(rows):,} passages embedded ({counted / len(rows):.2%}), {spent:.1f} s")


def quality(options: argparse.Namespace) -> None:
    """Print nDCG@10 and R@100 of BM25, the bi-encoder and both on collections."""
    import ir_measures

    for source in options.collections:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            os.environ |= {"INRANKER_STORE": f"{folder}/store", "INRANKER_SCRATCH": f"{folder}/scratch"}
            collection = _prepared(source, Path(folder, "collection"))
            qrels = tables.read(tables.QRELS, collection).to_pylist()
            found = {}
            for kind in ("bm25", "dense", "hybrid"):
                config = RetrieveConfig(first_stage=kind, dense=DenseConfig(str(options.model)))
                retrieve(config, collection, None, Path(folder, kind))
                run = tables.read(tables.RUN, Path(folder, kind)).to_pylist()
                judged = [ir_measures.Qrel(row["query_id"], row["doc_id"], row["relevance"]) for row in qrels]
                scored = [ir_measures.ScoredDoc(row["query_id"], row["doc_id"], row["score"]) for row in run]
                wanted = [ir_measures.nDCG @ 10, ir_measures.R @ 100]
                values = ir_measures.calc_aggregate(wanted, judged, scored)
                found[kind] = [values[each] for each in wanted]
            cells = " ".join(f"{kind} " + " / ".join(f"{value:.4f}" for value in each) for kind, each in found.items())
            print(f"{source.name}: {cells}", flush=True)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = CLOCK()
    done = work()
    return CLOCK() - start, done


def _dense(model: Path) -> RetrieveConfig:
    return RetrieveConfig(first_stage="dense", dense=DenseConfig(str(model)))


def _prepared(source: Path, out: Path) -> Path:
    prepare_corpus(PrepareConfig(on_problem="repair", max_train_queries=1), CorpusConfig(str(source), source.name), out)
    return out


def _texts(source: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        rows = tables.read(tables.CORPUS, _prepared(source, Path(folder, "c"))).to_pylist()
        return [default_text(row["title"], row["text"]) for row in rows]


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[object]]:
    return {name: [row[name] for row in rows] for name in tables.CORPUS.schema.names}


def _rewrite(collection: Path) -> None:
    from inranker_flow.artifacts import manifest

    old = manifest.read_manifest(collection)
    manifest.write_manifest(collection, dataset=old.dataset, stage=old.stage, **old.details)


def main() -> None:
    """Run one of the comparisons."""
    global CLOCK
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cpu", action="store_true", help="count the CPU's seconds")
    kinds = parser.add_subparsers(required=True)
    each = kinds.add_parser("search")
    each.add_argument("--faiss", default=sys.executable, help="a Python with faiss-cpu")
    each.add_argument(
        "--way", choices=("own", "blas"), default="blas", help="how faiss multiplies: as it chooses, or by BLAS"
    )
    each.add_argument("--passages", type=int, default=1_000_000)
    each.add_argument("--dimensions", type=int, default=384)
    each.add_argument("--queries", type=int, default=256)
    each.add_argument("--depths", type=int, nargs="+", default=[10, 100, 1000])
    each.add_argument("--rounds", type=int, default=3)
    each.set_defaults(work=search)
    for name, work in (("embed", embed), ("again", again)):
        each = kinds.add_parser(name)
        each.add_argument("--model", type=Path, required=True)
        each.add_argument("--collection", type=Path, required=True)
        each.add_argument("--passages", type=int, default=2_000)
        each.add_argument("--rounds", type=int, default=5)
        each.add_argument("--share", type=float, default=0.02)
        each.set_defaults(work=work)
    each = kinds.add_parser("quality")
    each.add_argument("--model", type=Path, required=True)
    each.add_argument("--collections", type=Path, nargs="+", required=True)
    each.set_defaults(work=quality)
    options = parser.parse_args()
    if options.cpu:
        CLOCK = time.process_time
    options.work(options)


if __name__ == "__main__":
    main()
