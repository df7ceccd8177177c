"""A student's variants against sentence-transformers' CrossEncoder in float32, on the same cores and the same candidates.

    python benchmarks/exported.py --model FOLDER --collection FOLDER [--threads 1] [--variants onnx-int8 ...]

FOLDER: an encoder student, and a BEIR folder. Each query has the passages that BM25 finds. All take turns, in the seconds that
the process computed (--wall: of the clock), and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from inranker_flow import reading
from inranker_flow.config.sections import ScoringConfig
from inranker_flow.evaluation.serving_cost import cpu_name
from inranker_flow.exporting import comparison
from inranker_flow.exporting.loading import graph_of
from inranker_flow.exporting.variants import VARIANTS
from inranker_flow.exporting.workshop import Workshop
from inranker_flow.rankers.loading import load_ranker


def candidates(collection: Path, queries: int, depth: int) -> list[list[tuple[str, str]]]:
    import bm25s

    def rows(name: str) -> list[dict]:
        return [json.loads(line) for line in (collection / name).read_text(encoding="utf-8").splitlines()]

    documents = [f"{each.get('title') or ''} {each['text']}".strip() for each in rows("corpus.jsonl")]
    asked = [each["text"] for each in rows("queries.jsonl")]
    asked = asked[:: max(1, len(asked) // queries)][:queries]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(documents, show_progress=False), show_progress=False)
    found, _ = index.retrieve(bm25s.tokenize(asked, show_progress=False), k=depth, show_progress=False)
    return [[(query, documents[place]) for place in row] for query, row in zip(asked, found.tolist(), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    options = parser.parse_args()
    import torch
    from sentence_transformers import CrossEncoder

    clock = time.perf_counter if options.wall else time.process_time
    torch.set_num_threads(options.threads)
    scoring = reading.scoring_of(options.model, ScoringConfig(dtype="float32", max_length=options.max_length))
    requests = candidates(options.collection, options.queries, options.depth)
    pairs = [pair for each in requests for pair in each]
    peer = CrossEncoder(str(options.model), device="cpu", max_length=scoring.max_length)
    ours = load_ranker(str(options.model), scoring)
    folder = tempfile.TemporaryDirectory()
    workshop = Workshop(graph_of(str(options.model), scoring), Path(folder.name), pairs)
    systems: dict[str, Callable[[list], np.ndarray]] = {
        "CrossEncoder.predict": lambda each: peer.predict(
            each, activation_fn=torch.nn.Identity(), show_progress_bar=False
        ),
        "torch (ours)": lambda each: comparison.margins(ours, each),
    }
    sizes = {}
    for name in options.variants:
        if why := workshop.fault(name):
            print(f"{name}: {why}")
            continue
        ranker = workshop.ranker(name, options.threads)
        systems[name] = lambda each, ranker=ranker: comparison.margins(ranker, each)
        sizes[name] = sum(each.stat().st_size for each in VARIANTS[name].files(workshop.folder)) / 1e6
    lengths = ours.prepare_pairs(pairs).lengths
    print(f"{cpu_name()}, {options.threads} thread(s); {len(pairs)} pairs of {lengths.mean():.0f} tokens "
          f"({lengths.min()} to {lengths.max()})")  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    scores: dict[str, np.ndarray] = {}
    for each in systems.values():
        each(requests[0][:16])  # what is slow once
    for _ in range(options.rounds):
        for name, score in systems.items():
            start = clock()
            scores[name] = np.concatenate([np.ravel(score(each)) for each in requests])
            seconds[name].append(clock() - start)
    print("| | pairs a second | ratio | Spearman | largest difference | MB |\n|---|---|---|---|---|---|")
    first = seconds["CrossEncoder.predict"]
    for name, took in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, took, strict=True))
        agreed = comparison.agreement(scores[name], scores["torch (ours)"])
        print(f"| {name} | {len(pairs) / statistics.median(took):.0f} | **{ratio:.2f}** | {agreed['spearman']:.4f} "
              f"| {agreed['largest_difference']:.4f} | {sizes.get(name, 0):.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
