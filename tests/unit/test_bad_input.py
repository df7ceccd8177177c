"""What is wrong with the input is one line that names file, line and remedy; nothing half-written is left."""

from __future__ import annotations

import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.errors import UserError
from inranker_flow.stages.prepare_corpus import prepare_corpus
from tests import beir
from tests.refusals import refuses

CORPUS, QUERIES = beir.jsonl(beir.CORPUS), beir.jsonl(beir.QUERIES)

#: (files to replace, kind, line of the first, how many, the message under "refuse", documents after a repair)
CASES = {
    "malformed JSON": (
        {"corpus": CORPUS + b'{"_id": "d5", "text": "cut o\n' + b"[1]\n"},
        "malformed", 5, 2, r"corpus\.jsonl line 5: not JSON", 4,
    ),
    "no id": ({"corpus": CORPUS + b'{"text": "x"}\n'}, "malformed", 5, 1, r"line 5: has no '_id'", 4),
    "text that is a number": (
        {"corpus": CORPUS + b'{"_id": "d5", "text": 3}\n'}, "malformed", 5, 1, r"line 5: 'text' is 3 and not text", 4,
    ),
    "id with a space": (
        {"corpus": CORPUS + b'{"_id": "d 5", "text": "x"}\n'}, "malformed", 5, 1, r"line 5: id 'd 5' .* white space", 4,
    ),
    "Latin-1": (
        {"corpus": CORPUS + '{"_id": "d5", "text": "café"}\n'.encode("latin-1")},
        "wrong_encoding", 5, 1, r"corpus\.jsonl line 5: not UTF-8 at byte 27", 4,
    ),
    "half a surrogate pair": (
        {"corpus": CORPUS + b'{"_id": "d5", "text": "\\ud83d"}\n'}, "wrong_encoding", 5, 1, "surrogate", 4,
    ),
    "duplicate document id": (
        {"corpus": CORPUS + b'{"_id": "d1", "text": "other"}\n' * 3},
        "duplicate_document_id", 5, 3, r"line 5: document id 'd1' is used again; 3 documents whose id was seen", 4,
    ),
    "empty document": (
        {"corpus": CORPUS + b'{"_id": "d5", "title": " ", "text": ""}\n'}, "empty_document", 5, 1, "'d5' has no text", 4,
    ),
    "duplicate query id": (
        {"queries": QUERIES + b'{"_id": "q1", "text": "x"}\n'}, "duplicate_query_id", 4, 1, r"queries\.jsonl line 4", 4,
    ),
    "query without text": (
        {"queries": QUERIES + b'{"_id": "q4", "text": ""}\n'}, "empty_query", 4, 1, "query 'q4' has no text", 4,
    ),
    "judgement of an unknown document": (
        {"test": beir.tsv([*beir.TEST, ("q2", "d99", 1)])},
        "unknown_document", 4, 1, r"qrels/test\.tsv line 4: no document has the id 'd99', they are like 'd1'; 1 judgements", 4,
    ),
    "judgement of an unknown query": (
        {"train": beir.tsv([*beir.TRAIN, ("q99", "d1", 1)])},
        "unknown_query", 4, 1, r"qrels/train\.tsv line 4: no query has the id 'q99'", 4,
    ),
    "relevance that is no number": (
        {"test": beir.tsv([*beir.TEST, ("q2", "d1", "high"), ("q2", "d2", "0.5")])},
        "bad_relevance", 4, 2, r"test\.tsv line 4: relevance 'high' is not a whole number", 4,
    ),
    "malformed judgement": (
        {"test": beir.tsv([*beir.TEST, ("q2", "d1")])}, "malformed", 4, 1, "neither `query-id corpus-id score` nor", 4,
    ),
    "query in both splits": (
        {"train": beir.tsv([*beir.TRAIN, ("q2", "d1", 1)])}, "leak", 4, 1, "'q2' of the training split is in the test", 4,
    ),
}  # fmt: skip


def prepare(folder, out, **config):
    return prepare_corpus(PrepareConfig(**config), CorpusConfig(uri=str(folder), name="sample"), out)


@pytest.mark.parametrize("case", CASES)
def test_broken_rows(tmp_path, case):
    files, kind, line, count, message, documents = CASES[case]
    folder = beir.write(tmp_path / "beir", **files)
    with pytest.raises(UserError, match=message) as caught:
        prepare(folder, tmp_path / "out")
    text = str(caught.value)
    assert "\n" not in text and "on_problem=repair" in text and str(folder) in text
    assert not (tmp_path / "out" / "manifest.json").exists()
    stats = prepare(folder, tmp_path / "out", on_problem="repair")
    assert (stats.documents, stats.train_queries, stats.test_queries, stats.judgements) == (documents, 2, 1, 4)
    assert stats.dropped == count
    [found] = [each for each in read_manifest(tmp_path / "out").details["problems"] if each["kind"] == kind]
    assert (found["count"], found["examples"][0]["line"]) == (count, line)
    assert stats.fingerprint == prepare(beir.write(tmp_path / "good"), tmp_path / "good-out").fingerprint


def test_all_kinds_at_once_are_counted(tmp_path):
    corpus = CORPUS + b"x\n" * 9 + b'{"_id": "d1", "text": "again"}\n' + b'{"_id": "d5", "text": ""}\n'
    folder = beir.write(tmp_path / "beir", corpus=corpus)
    with pytest.raises(UserError, match=r"line 5: not JSON .*; 9 malformed rows in all, and .*1 documents without any"):
        prepare(folder, tmp_path / "out")
    assert prepare(folder, tmp_path / "out", on_problem="repair").dropped == 11
    problems = {each["kind"]: each for each in read_manifest(tmp_path / "out").details["problems"]}
    assert [example["line"] for example in problems["malformed"]["examples"]] == [5, 6, 7, 8, 9], "five examples"


def test_repeated_texts_are_only_reported(tmp_path):
    folder = beir.write(tmp_path / "beir", corpus=CORPUS + b'{"_id": "d5", "text": "Granite is a hard rock."}\n')
    stats = prepare(folder, tmp_path / "out")
    assert (stats.documents, stats.duplicate_texts, stats.dropped) == (5, 1, 0)


def test_a_query_that_loses_its_last_judgement_goes_too(tmp_path):
    folder = beir.write(tmp_path / "beir", train=beir.tsv([("q1", "d2", 1), ("q3", "d99", 1)]))
    stats = prepare(folder, tmp_path / "out", on_problem="repair")
    assert (stats.train_queries, stats.unjudged_queries) == (1, 1)
    assert {row["query_id"] for row in tables.read(tables.QUERIES, tmp_path / "out").to_pylist()} == {"q1", "q2"}


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"corpus": b""}, r"the corpus is empty"),
        ({"corpus": b"\n\n"}, r"the corpus is empty"),
        ({"corpus": None}, r"holds neither corpus\.jsonl"),
        ({"queries": None}, r"has qrels but no queries\.jsonl"),
    ],
)
@pytest.mark.parametrize("on_problem", ["refuse", "repair"])
def test_missing_and_empty_files_are_never_repaired(tmp_path, replaced, message, on_problem):
    if "corpus" in replaced and replaced["corpus"] is not None:
        replaced = {**replaced, "queries": None, "train": None, "test": None}
    with pytest.raises(UserError, match=message):
        prepare(beir.write(tmp_path / "beir", **replaced), tmp_path / "out", on_problem=on_problem)
    assert not list((tmp_path / "out").glob("corpus.parquet"))


def test_missing_folder_and_wrong_addresses(tmp_path):
    for uri, message in (
        (f"{tmp_path}/nowhere", r"nowhere: no such file or folder"),
        (f"inranker-beir:{tmp_path}/nowhere.jsonl", r"nowhere\.jsonl: no such file"),
        (f"{beir.write(tmp_path / 'beir', {'notes.odt': b'x'})}/notes.odt", r"not a collection; give a folder"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(uri, tmp_path / "out")
    corpus = CorpusConfig(uri=str(tmp_path / "beir"), name="sample", labels="other:file")
    with refuses("labels-form", "inranker-msmarco", "FILE"):
        prepare_corpus(PrepareConfig(), corpus, tmp_path / "out")


def test_files_that_are_cut_off(tmp_path):
    folder = beir.write(tmp_path / "beir", {"corpus.jsonl.gz": CORPUS * 50}, corpus=None)
    whole = (folder / "corpus.jsonl.gz").read_bytes()
    (folder / "corpus.jsonl.gz").write_bytes(whole[:-20])
    with refuses("collection-damaged", "corpus.jsonl.gz"):
        prepare(folder, tmp_path / "out", on_problem="repair")
    (tmp_path / "corpus.parquet").write_bytes(b"PAR1 and then nothing")
    with refuses("collection-damaged"):
        prepare(tmp_path / "corpus.parquet", tmp_path / "out")


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """The kernel refuses writes past a limit, as it does on a full disk; the error is one line."""
    noise = [{"_id": f"d{i}", "text": f"{i * 7919**9:x} {i * 104729**8:x}"} for i in range(40_000)]
    folder = beir.write(tmp_path / "beir", corpus=beir.jsonl(noise), queries=None, train=None, test=None)
    out = tmp_path / "out"
    assert prepare(folder, out).documents == 40_000
    size = (out / "corpus.parquet").stat().st_size
    (out / "manifest.json").unlink()
    (out / "corpus.parquet").unlink()
    program = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "from inranker_flow.config.sections import CorpusConfig, PrepareConfig\n"
        "from inranker_flow.stages.prepare_corpus import prepare_corpus\n"
        "from inranker_flow.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))\n"
        "try:\n"
        "    prepare_corpus(PrepareConfig(), CorpusConfig(uri=sys.argv[1], name='x'), Path(sys.argv[2]))\n"
        "except UserError as error:\n    print(error)\n    sys.exit(2)\n"
    )
    command = [sys.executable, "-c", program, str(folder), str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert "cannot be written: File too large; nothing is left" in result.stdout
    assert [each.name for each in out.iterdir() if "corpus" in each.name or each.name == "manifest.json"] == []
    assert prepare(folder, out).documents == 40_000, "the next attempt works"
    assert pq.read_metadata(out / "corpus.parquet").num_rows == 40_000
