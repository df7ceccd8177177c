"""Collections as they lie somewhere: layouts, judgements, odd files, ir_datasets, and what `retrain` finds."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests import beir
from tests.inputs.table import Artifact, Input, stage

#: No part of the collection of `tests/beir.py`.
NOTHING_ELSE: dict[str, None] = dict.fromkeys(("corpus", "queries", "train", "test"))
CORPUS, TEST = beir.jsonl(beir.CORPUS), beir.tsv(beir.TEST)


def prepared(uri: str, mode: str = "refuse", **corpus: Any) -> int:
    from inranker_flow.stages.prepare_corpus import prepare_corpus

    section = {"uri": uri, "name": "sample", **corpus}
    outputs = {"collection": Artifact(Path("collection").absolute())}
    return stage(prepare_corpus, configs={"corpus": section, "config": {"on_problem": mode}}, outputs=outputs)


def folder(
    files: Mapping[str, bytes] | None = None,
    mode: str = "refuse",
    section: Mapping[str, Any] | None = None,
    **replaced: bytes | None,
) -> Callable[[Path], int]:
    """Prepare the collection of `tests/beir.py` with other ``files``."""
    return lambda here: prepared(str(beir.write(here / "in", files, **replaced)), mode, **(section or {}))


def with_odd(name: str, make: Callable[[Path], None], **replaced: bytes | None) -> Callable[[Path], int]:
    def act(here: Path) -> int:
        root = beir.write(here / "in", **replaced)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        make(root / name)
        return prepared(str(root))

    return act


def put(content: bytes, name: str = "") -> Callable[[Path], None]:
    def act(path: Path) -> None:
        (path / name if name else path).write_bytes(content)

    return act


def no_judgement(path: Path) -> None:
    beir.write(path, corpus=None, train=None, test=b"")


def discovered(here: Path, make: Callable[[Path], None]) -> int:
    """What `retrain` says of two corpora, one of them good."""
    from inranker_flow.stages.discover import discover
    from tests.promoting import use_database

    good = here / "corpora" / "good"
    beir.write(good, queries=None, train=None, test=None)
    make(beir.write(here / "corpora" / "other", queries=None, train=None, test=None))
    for each in (good, good.parent / "other"):
        (each / "_SUCCESS").touch()
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT")}
    use_database(here)
    try:
        return stage(
            discover,
            configs={
                "config": {"uri": str(here / "corpora")}, "corpus": {}, "source": {"uri": "demo:source/1", "name": "inns"},
                "targets": [], "phase2": {}, "promotion": {},
            },
            outputs={"report": Artifact(here / "report.md")}, work_key="work", run_id="me",
        )  # fmt: skip
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def _unjudged(name: str, content: bytes) -> Callable[[Path], int]:
    return folder({name: content}, test=None)


INPUTS = [
    # --- judgements that are read
    Input(
        "jsonl of the hub",
        _unjudged("qrels/test.jsonl", b'{"query-id": "q2", "corpus-id": "d3", "score": 1}\n'),
        ("test_queries 1",),
        0,
    ),
    Input(
        "TREC's four columns in .txt", _unjudged("qrels/test.txt", b"q2 0 d3 1\nq2 Q0 d4 -2\n"), ("test_queries 1",), 0
    ),
    Input("other case of names", _unjudged("QRELS/Test.TSV", TEST), ("test_queries 1",), 0),
    Input("qrels in the root", _unjudged("qrels.tsv", TEST), ("test_queries 1",), 0),
    Input("judgements in UTF-16", _unjudged("qrels/test.tsv", TEST.decode().encode("utf-16")), ("test_queries 1",), 0),
    Input("judgements as CSV", _unjudged("qrels/test.csv", TEST.replace(b"\t", b",")), ("test_queries 1",), 0),
    Input(
        "a pair judged by two assessors",
        folder(test=b"q2 0 d3 0\nq2 0 d3 2\n"),
        ("highest grade counts", "repeated_judgements 1"),
        0,
    ),
    Input(
        "grades with a point, an exponent, other digits",
        folder(test="q2\td3\t1.0\nq2\td4\t2e0\nq2\td1\t١\n".encode()),
        ("judgements 5",),
        0,
    ),
    Input("a collection in UTF-16", folder(corpus=CORPUS.decode().encode("utf-16")), ("documents 4",), 0),
    Input(
        "documents with titles alone",
        folder(corpus=beir.jsonl({"_id": f"d{n}", "title": "x", "text": None} for n in range(1, 5))),
        ("documents 4",),
        0,
    ),
    # --- judgements that are not
    Input("an empty file of judgements", folder(test=b""), ("qrels/test.tsv: is empty",)),
    Input("a header alone", folder(test=beir.tsv([])), ("qrels/test.tsv: holds no judgement", "take it away")),
    Input("a packed file of nothing", _unjudged("qrels/test.tsv.gz", b""), ("qrels/test.tsv.gz: holds no judgement",)),
    Input(
        "fractions as grades",
        folder(test=b"q2\td3\t0.5\n", mode="repair"),
        ("none of its 1 judgements of the test split can be used",),
    ),
    Input(
        "ids as pandas writes them",
        folder(test=b"2.0\t3.0\t1\n", mode="repair"),
        ("no query has the id '2.0', they are like 'q1'",),
    ),
    Input(
        "a run in place of judgements",
        folder(test=b"q2 Q0 d3 1 9.5 bm25\n"),
        ("test.tsv line 1", "six columns as a run has"),
    ),
    Input(
        "judgements in a spreadsheet",
        _unjudged("qrels/test.xlsx", b"PK"),
        ("qrels/test.xlsx: judgements in a form that is not read",),
    ),
    Input("one shard of two", _unjudged("qrels/test-00000-of-00002.parquet", b"PAR1"), ("1 of 2 parts are there",)),
    Input("no judgement says relevant", folder(test=b"q2 0 d3 0\nq2 0 d4 -1\n"), ("says relevant",)),
    Input(
        "a split that is not there",
        folder(section={"test_split": "dev"}),
        ("test_split is 'dev'", "there are: test, train"),
    ),
    Input(
        "judgements that nobody asks for",
        _unjudged("qrels/dev.tsv", TEST),
        ("sample will NOT be evaluated: qrels/dev.tsv",),
        0,
    ),
    Input("queries and no judgements", folder(train=None, test=None), ("will NOT be evaluated: it has queries",), 0),
    # --- files that are none, or others
    Input(
        "a pipe as corpus.jsonl", with_odd("corpus.jsonl", os.mkfifo, corpus=None), ("corpus.jsonl is no regular file",)
    ),
    Input("a folder as corpus.jsonl", with_odd("corpus.jsonl", Path.mkdir, corpus=None), ("corpus.jsonl is a folder",)),
    Input(
        "a link to itself as judgements",
        with_odd("qrels/dev.tsv", lambda path: path.symlink_to(path)),
        ("a link that leads back to itself",),
    ),
    Input(
        "a link to nothing as queries",
        with_odd("queries.jsonl", lambda path: path.symlink_to("gone"), queries=None),
        ("a link to nothing",),
    ),
    Input("a zip archive as corpus.jsonl", folder(corpus=b"PK\x03\x04" + b"x" * 50), ("is a ZIP archive: unpack it",)),
    Input(
        "half a gzip file",
        with_odd("corpus.jsonl.gz", put(gzip.compress(CORPUS * 99)[:-9]), corpus=None),
        ("not a whole gzip file",),
    ),
    Input(
        "documents as CSV of other columns", folder({"corpus.csv": b"x"}, corpus=None), ("corpus.csv: has no column",)
    ),
    Input(
        "a mapping with a column that is not there",
        folder({"corpus.csv": b"sku,name\n1,Oak\n"}, corpus=None, section={"fields": {"id": "sku", "text": "{nam}"}}),
        ("corpus.csv: has no column nam (it has: sku, name); correct fields.text",),
    ),
    Input(
        "half a zstd file",
        with_odd("corpus.jsonl.zst", put(pa.compress(CORPUS * 99, "zstd", asbytes=True)[:-9]), corpus=None),
        ("not a whole zstd file",),
    ),
    Input(
        "a page without text",
        folder({"docs/a.html": b"<p>Oak.</p>", "docs/b.html": b"<script>x</script>"}, **NOTHING_ELSE),
        ("docs/b.html line 1: has no text",),
    ),
    Input(
        "a document in Latin-1",
        folder({"a.md": b"# Oak\n\nch\xeane\n"}, **NOTHING_ELSE),
        ("a.md line 3: not UTF-8 (the byte 0xea)",),
    ),
    Input(
        "two rows of one id",
        folder({"corpus.tsv": b"id\ttext\n1\tOak\n1\tElm\n"}, corpus=None, queries=None, train=None, test=None),
        ("corpus.tsv line 3: document id '1' is used again",),
    ),
    Input(
        "a folder with nothing that is read",
        folder({"logo.png": b"x"}, **NOTHING_ELSE),
        ("and no file of text (.md, .html, .txt, .pdf, .docx)",),
    ),
    Input(
        "a quote that does not end",
        folder({"corpus.csv": b'id,text\n1,"Oak\n2,Elm\n'}, corpus=None, queries=None, train=None, test=None),
        ("corpus.csv line 2: not columns between ','",),
    ),
    Input("no queries", folder(queries=None), ("has qrels but no queries.jsonl",)),
    Input(
        "a row nested a thousand deep",
        folder(corpus=CORPUS + b'{"_id": "x", "text": ' + b"[" * 990 + b"]" * 990 + b"}\n"),
        ("corpus.jsonl line 5",),
    ),
    Input(
        "text that is NaN",
        folder(corpus=CORPUS + b'{"_id": "x", "text": NaN}\n'),
        ("line 5: 'text' is NaN and not text",),
    ),
    Input("an id with a line feed", folder(corpus=CORPUS + b'{"_id": "a\\nb", "text": "x"}\n'), ("holds white space",)),
    Input("ids that are numbers", folder(corpus=CORPUS + b'{"_id": 7, "text": "x"}\n'), ("documents 5",), 0),
    # --- ir_datasets
    Input("an id with a slip", lambda here: prepared("ir_datasets:beir/scifct"), ("did you mean beir/scifact",)),
    Input(
        "an id without documents",
        lambda here: prepared("ir_datasets:bright"),
        ("has no documents; give an id that has, such as bright/",),
    ),
    Input(
        "pictures without a text",
        lambda here: prepared("ir_datasets:touche-image/2022-06-13"),
        ("set text_fields to some of their fields (doc_id, png",),
    ),
    Input(
        "a field that is not there",
        lambda here: prepared("ir_datasets:vaswani", text_fields=["body"]),
        ("text_fields: its documents have no 'body'",),
    ),
    Input(
        "fields of a folder",
        folder(section={"text_fields": ["body"]}),
        ("text_fields and query_fields are for ir_datasets:ID alone",),
    ),
    # --- what retrain finds
    Input(
        "a corpus that is cut off beside a good one",
        lambda here: discovered(here, put(b"{", "corpus.jsonl")),
        ("other: quarantined", "not JSON", "quarantined 1"),
        0,
    ),
    Input(
        "a corpus with empty judgements",
        lambda here: discovered(here, no_judgement),
        ("other: quarantined", "qrels/test.tsv: is empty"),
        0,
    ),
    Input(
        "a corpus.yaml that is none",
        lambda here: discovered(here, put(b"\xff: [", "corpus.yaml")),
        ("other: quarantined", "corpus.yaml: not UTF-8"),
        0,
    ),
]
