"""The readers of collections under a fuzzer that is guided by coverage (atheris), by hand: crashes are tests to be written.

    .venv/bin/python -m pip install --target /tmp/atheris atheris
    PYTHONPATH=src:.:/tmp/atheris .venv/bin/python tests/fuzz/fuzz_corpora.py -max_total_time=600 -rss_limit_mb=4096

libFuzzer prints its counts at the end, and keeps what crashed as crash-... in the working directory; the file's name as
argument runs it again. `make test` has the same check with examples that are always the same (tests/unit/test_readers.py).
"""

from __future__ import annotations

import gzip
import io
import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["inranker_flow.corpora", "inranker_flow.artifacts.tables"]):
    from tests import beir
    from tests.fuzz.readers import read

import pyarrow as pa
import pyarrow.parquet as pq

#: Between the files of one example.
CUT = b"\n%%\n"
LABELS = b"1\t-1\tq1\td2\n0.5\t-2\tq3\td1\n"
ROW = b'{"query": "hard rock", "contents": "Granite.", "true_logit": 1.5, "false_logit": -1.5}\n'
FOLDER = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv")
GOOD = [beir.jsonl(beir.CORPUS), beir.jsonl(beir.QUERIES), beir.tsv(beir.TRAIN), beir.tsv(beir.TEST)]


def one(data: bytes) -> None:
    """Read one example: its first byte says as what."""
    kind, rest = (data[0] if data else 0), data[1:]
    on_problem = "repair" if kind & 1 else "refuse"
    parts = rest.split(CUT)
    match kind // 2 % 5:
        case 0:
            read(dict(zip(FOLDER, parts, strict=False)), on_problem=on_problem)
        case 1:
            read({"corpus.jsonl.gz": rest}, on_problem=on_problem)
        case 2:
            names = ("corpus.parquet", "queries.parquet", "qrels.parquet")
            read(dict(zip(names, parts, strict=False)), on_problem=on_problem)
        case 3:
            read({"file.jsonl": rest}, "inranker-beir:{folder}/file.jsonl", on_problem=on_problem)
        case _:
            files = {**dict(zip(FOLDER[:3], GOOD, strict=False)), "labels.tsv": rest}
            read(files, labels="inranker-msmarco:{folder}/labels.tsv", on_problem=on_problem)


def examples() -> list[bytes]:
    """A good collection of each kind, to start from."""
    tables = [
        {key: [row[key] for row in beir.CORPUS] for key in ("_id", "title", "text")},
        {key: [row[key] for row in beir.QUERIES] for key in ("_id", "text")},
        {"query-id": ["q1", "q2"], "corpus-id": ["d2", "d3"], "score": [1, 1], "split": ["train", "test"]},
    ]
    stored = [io.BytesIO() for _ in tables]
    for table, out in zip(tables, stored, strict=True):
        pq.write_table(pa.table(table), out, compression="none")
    parquet = CUT.join(out.getvalue() for out in stored)
    contents = [CUT.join(GOOD), gzip.compress(GOOD[0], mtime=0), parquet, ROW, LABELS]
    return [bytes([2 * number + mode]) + content for number, content in enumerate(contents) for mode in (0, 1)]


def main() -> None:
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as seeds:
        for number, example in enumerate(examples()):
            one(example)  # a good one must be read: else the fuzz would look at refusals alone
            (Path(seeds) / str(number)).write_bytes(example)
        given = any(not each.startswith("-") for each in sys.argv[1:])
        atheris.Setup(sys.argv if given else [*sys.argv, seeds], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
