"""Judgements are used or refused, in every layout and form that people and the hub have; never lost in silence."""

from __future__ import annotations

import errno
import gzip
import io
import json
import logging
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.corpora.problems import BadCollection
from inranker_flow.corpora.sources import layout
from inranker_flow.errors import UserError
from inranker_flow.planning.counting import count
from inranker_flow.preflight.collections import check_collection, check_source
from inranker_flow.stages.prepare_corpus import prepare_corpus
from tests import beir
from tests.refusals import refuses

CORPUS, QUERIES = beir.jsonl(beir.CORPUS), beir.jsonl(beir.QUERIES)
TEST, TRAIN = beir.tsv(beir.TEST), beir.tsv(beir.TRAIN)


def hub(rows, **names) -> bytes:
    keys = [names.get(key, key) for key in ("query-id", "corpus-id", "score")]
    return beir.jsonl(dict(zip(keys, row, strict=True)) for row in rows)


def parquet(rows, *names) -> bytes:
    out = io.BytesIO()
    columns = list(zip(*rows, strict=True)) or [[] for _ in names]
    pq.write_table(pa.table({name: list(column) for name, column in zip(names, columns, strict=True)}), out)
    return out.getvalue()


def judged(rows) -> bytes:
    return parquet(rows, "query-id", "corpus-id", "score")


DOCS = parquet([(row["_id"], row["title"], row["text"]) for row in beir.CORPUS], "_id", "title", "text")
ASKED = parquet([(row["_id"], row["text"]) for row in beir.QUERIES], "_id", "text")


def prepare(folder, out, on_problem="refuse", **corpus):
    return prepare_corpus(
        PrepareConfig(on_problem=on_problem), CorpusConfig(uri=str(folder), name="sample", **corpus), out
    )


def found(folder):
    return {(row["query_id"], row["doc_id"], row["relevance"]) for row in tables.read(tables.QRELS, folder).to_pylist()}


#: Files beside corpus.jsonl and queries.jsonl, all with the same judgements of the test split.
LAYOUTS = {
    "the hub's jsonl": {"qrels/test.jsonl": hub(beir.TEST)},
    "jsonl with other names": {"qrels/test.jsonl": hub(beir.TEST, **{"query-id": "qid", "corpus-id": "docid", "score": "label"})},
    "jsonl packed": {"qrels/test.jsonl.gz": hub(beir.TEST)},
    "ids that are numbers are text": {"qrels/test.jsonl": hub(beir.TEST)},
    "txt of TREC": {"qrels/test.txt": b"q2 0 d3 1\nq2 Q0 d4 0\n"},
    "no suffix": {"qrels/test": TEST},
    "capitals": {"QRELS/Test.TSV": TEST},
    "capitals, packed": {"Qrels/TEST.tsv.gz": TEST},
    "csv": {"qrels/test.csv": TEST.replace(b"\t", b",")},
    "csv with quotes": {"qrels/test.csv": b'"query-id","corpus-id","score"\r\n"q2","d3","1"\r\n"q2","d4","0"\r\n'},
    "in the root": {"qrels.tsv": TEST},
    "in the root, the split after a point": {"qrels.test.tsv": TEST},
    "in the root, the split before": {"test.qrels": b"q2 0 d3 1\nq2 0 d4 0\n"},
    "in the root, the split as suffix": {"qrels.test": TEST},
    "in the root, by the split alone": {"test.tsv": TEST},
    "in a folder of the split": {"test/qrels.tsv": TEST},
    "beside the topics": {"topics/qrels.txt": TEST},
    "a folder of another name": {"sample-qrels/test.tsv": TEST},
    "shards of the hub": {
        "data/test-00000-of-00002.parquet": judged(beir.TEST[:1]), "data/test-00001-of-00002.parquet": judged(beir.TEST[1:]),
    },
    "shards in qrels": {"qrels/test-00000-of-00001.parquet": judged(beir.TEST)},
    "the default configuration": {"default/test-00000-of-00001.parquet": judged(beir.TEST)},
    "the hub's converted files": {"sample-qrels/test/0000.parquet": judged(beir.TEST)},
    "the hub's converted default": {"default/test/0000.parquet": judged(beir.TEST)},
    "twice the same": {"qrels/test.tsv": TEST, "qrels/test.jsonl": hub(beir.TEST)},
    "another column order": {"qrels/test.tsv": b"corpus-id\tscore\tquery-id\nd3\t1\tq2\nd4\t0\tq2\n"},
    "UTF-16": {"qrels/test.tsv": TEST.decode().encode("utf-16")},
    "UTF-16, packed": {"qrels/test.tsv.gz": TEST.decode().encode("utf-16")},
    "a mark, and ends of lines as on Windows": {"qrels/test.tsv": b"\xef\xbb\xbf" + TEST.replace(b"\n", b"\r\n")},
    "blanks around": {"qrels/test.tsv": b"  q2\t d3 \t 1 \n\nq2 \td4\t0\t\n"},
    "whole numbers otherwise written": {"qrels/test.tsv": "q2\td3\t1e0\nq2\td4\t٠\n".encode()},
    "quotes": {"qrels/test.tsv": b'"query-id"\t"corpus-id"\t"score"\n"q2"\t"d3"\t"1"\n"q2"\t"d4"\t"0"\n'},
    "the index of pandas": {"qrels/test.tsv": b"\tquery-id\tcorpus-id\tscore\n0\tq2\td3\t1\n1\tq2\td4\t0\n"},
    "gzip under a plain name": {"qrels/test.tsv": gzip.compress(TEST)},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_judgements_are_read_wherever_they_lie(tmp_path, name):
    folder = beir.write(tmp_path / "in", LAYOUTS[name], train=None, test=None)
    stats = prepare(folder, tmp_path / "out")
    assert (stats.documents, stats.test_queries, stats.not_evaluated) == (4, 1, "")
    assert found(tmp_path / "out") == set(beir.TEST)
    assert check_collection(CorpusConfig(uri=str(folder), name="sample")).endswith(": there")
    if "UTF-16" not in name and "plain name" not in name:  # the plan is an estimate
        assert count(CorpusConfig(uri=str(folder), name="sample"), PrepareConfig()).test_queries in (1, 2)


@pytest.mark.parametrize(
    "files",
    [
        {"corpus/corpus-00000-of-00001.parquet": DOCS, "queries/queries-00000-of-00001.parquet": ASKED},
        {"corpus/corpus/0000.parquet": DOCS, "queries/queries/0000.parquet": ASKED},
        {"corpus.parquet": DOCS, "queries.jsonl": QUERIES},
        {"corpus.jsonl.gz": CORPUS, "queries.jsonl.gz": QUERIES},
        {"corpus-00000-of-00001.parquet": DOCS, "queries-00000-of-00001.parquet": ASKED},
        {"Corpus.JSONL": CORPUS, "Queries.jsonl": QUERIES},
        {"sample-corpus/data.jsonl": CORPUS, "sample-queries/data.jsonl": QUERIES},
        {"corpus/train-00000-of-00001.parquet": DOCS, "queries/test-00000-of-00001.parquet": ASKED},
    ],
    ids=lambda files: next(iter(files)),
)
def test_documents_and_queries_are_read_wherever_they_lie(tmp_path, files):
    folder = beir.write(
        tmp_path / "in", {**files, "qrels/test.tsv": TEST}, corpus=None, queries=None, train=None, test=None
    )
    stats = prepare(folder, tmp_path / "out")
    assert (stats.documents, stats.test_queries) == (4, 1) and found(tmp_path / "out") == set(beir.TEST)
    assert count(CorpusConfig(uri=str(folder), name="sample"), PrepareConfig()).documents == 4
    assert layout.holds_documents(files)


#: (files beside corpus, queries and qrels/train.tsv, mode, what is said)
REFUSED = {
    "0 bytes": ({"qrels/test.tsv": b""}, "refuse", "test.tsv: is empty; fill it"),
    "a header alone": ({"qrels/test.tsv": b"query-id\tcorpus-id\tscore\n"}, "refuse", "test.tsv: holds no judgement"),
    "blank lines": ({"qrels/test.tsv": b"\n \n\t\n"}, "repair", "test.tsv: holds no judgement"),
    "nothing, packed": ({"qrels/test.tsv.gz": b""}, "refuse", "test.tsv.gz: holds no judgement"),
    "Parquet without rows": (
        {"qrels/test-00000-of-00001.parquet": parquet([], "query-id", "corpus-id", "score")}, "refuse", "",
    ),
    "fractions": ({"qrels/test.tsv": b"q2\td3\t0.5\nq2\td4\t.25\n"}, "repair", "none of its 2 judgements of the test split"),
    "words": ({"qrels/test.tsv": b"q2 d3 good\nq2 d4 bad\n"}, "repair", "2 judgements whose relevance is not a whole number"),
    "ids of pandas": ({"qrels/test.tsv": b"2.0\t3.0\t1\n"}, "repair", "no query has the id '2.0', they are like 'q1'"),
    "ids in other case": ({"qrels/test.tsv": b"Q2\tD3\t1\n"}, "repair", "none of its 1 judgements"),
    "documents of another corpus": ({"qrels/test.tsv": b"q2\tx3\t1\n"}, "repair", "1 judgements of a document that is not"),
    "grades that are never relevant": ({"qrels/test.tsv": b"q2\td3\t0\nq2\td4\t-2\n"}, "refuse", "says relevant"),
    "ends of lines as on old Macs": ({"qrels/test.tsv": TEST.replace(b"\n", b"\r")}, "repair", "none of its 1 judgements"),
    "a run": ({"qrels/test.tsv": b"q2 Q0 d3 1 9.5 bm25\n"}, "refuse", "six columns as a run has"),
    "a spreadsheet": ({"qrels/test.xlsx": b"PK\x03\x04"}, "refuse", "qrels/test.xlsx: judgements in a form that is not read"),
    "JSON in one piece": ({"qrels/test.json": b"{}"}, "repair", "qrels/test.json: judgements in a form that is not read"),
    "packed otherwise": ({"qrels/test.tsv.bz2": b"x"}, "refuse", "qrels/test.tsv.bz2: judgements in a form"),
    "packed and damaged": ({"qrels/test.tsv.zst": b"x"}, "refuse", "qrels/test.tsv.zst: not a whole zstd file"),
    "an archive under a plain name": ({"qrels/test.tsv": b"PK\x03\x04" + b"x" * 99}, "refuse", "is a ZIP archive: unpack it"),
    "one shard of three": (
        {"qrels/test-00000-of-00003.parquet": judged(beir.TEST)}, "refuse", r"1 of 3 parts are there \(number 1 is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_judgements_of_which_none_can_be_used_are_refused(tmp_path, name):
    files, mode, message = REFUSED[name]
    folder = beir.write(tmp_path / "in", files, test=None)
    with pytest.raises(BadCollection, match=message) as caught:
        prepare(folder, tmp_path / "out", mode)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    "name",
    ["0 bytes", "a header alone", "blank lines", "nothing, packed", "a spreadsheet", "one shard of three", "fractions"],
)
def test_preflight_refuses_them_before_anything_is_computed(tmp_path, name):
    folder = beir.write(tmp_path / "in", REFUSED[name][0], test=None)
    with pytest.raises(UserError, match=r"judgement|empty|parts"):
        check_collection(CorpusConfig(uri=str(folder), name="sample"))


def test_a_training_split_that_is_empty_loses_nothing_where_there_are_test_judgements(tmp_path):
    assert prepare(beir.write(tmp_path / "a", train=beir.tsv([])), tmp_path / "out").test_queries == 1
    with pytest.raises(BadCollection, match=r"train\.tsv: holds no judgement"):
        prepare(beir.write(tmp_path / "b", train=beir.tsv([]), test=None), tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "replaced", "reason"),
    [
        ({"qrels/dev.tsv": TEST}, {"test": None}, "qrels/dev.tsv: nobody asks for these judgements (set test_split"),
        ({}, {"test": None}, "it has judgements of the training split alone (qrels/train.tsv)"),
        ({}, {"test": None, "train": None}, "it has queries (queries.jsonl) but no judgements"),
    ],
)  # fmt: skip
def test_what_will_not_be_evaluated_is_said_everywhere(tmp_path, caplog, files, replaced, reason):
    folder = beir.write(tmp_path / "in", files, **replaced)
    with caplog.at_level(logging.WARNING):
        stats = prepare(folder, tmp_path / "out")
    assert reason in stats.not_evaluated and f"sample will NOT be evaluated: {stats.not_evaluated}" in caplog.text
    assert read_manifest(tmp_path / "out").details["not_evaluated"] == stats.not_evaluated
    assert f"will NOT be evaluated: {reason}" in check_collection(CorpusConfig(uri=str(folder), name="sample"))


def test_documents_alone_are_no_loss(tmp_path, caplog):
    folder = beir.write(tmp_path / "in", queries=None, train=None, test=None)
    assert prepare(folder, tmp_path / "out").not_evaluated == ""
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert check_collection(CorpusConfig(uri=str(folder), name="sample")).endswith(": there")


def test_a_split_that_was_set_and_is_not_there_is_refused(tmp_path):
    folder = beir.write(tmp_path / "in")
    with pytest.raises(
        BadCollection, match=r"test_split is 'dev', of which there are no judgements \(there are: test, train\)"
    ):
        prepare(folder, tmp_path / "out", test_split="dev")
    rows = [(*row, "validation") for row in beir.TEST]
    files = {"qrels.parquet": parquet(rows, "query-id", "corpus-id", "score", "split"), "corpus.parquet": DOCS}
    other = beir.write(tmp_path / "parquet", files, corpus=None, train=None, test=None)
    with pytest.raises(
        BadCollection, match=r"its column split holds validation but not train or test; set train_split"
    ):
        prepare(other, tmp_path / "out")
    assert prepare(other, tmp_path / "out", test_split="validation").test_queries == 1
    assert check_source(CorpusConfig(uri=str(folder), name="x")).endswith(": there")


def test_a_source_needs_a_training_split(tmp_path):
    folder = beir.write(tmp_path / "in", {"qrels/dev.tsv": TEST}, train=None)
    with pytest.raises(
        UserError, match=r"training split named 'train', and there are: qrels/test.tsv, qrels/dev.tsv; set train"
    ):
        check_source(CorpusConfig(uri=str(folder), name="x"))
    assert check_source(CorpusConfig(uri=str(folder), name="x", train_split="dev"))
    assert check_source(CorpusConfig(uri="demo:source/1", name="x"))


@pytest.mark.parametrize("mode", ["refuse", "repair"])
@pytest.mark.parametrize(
    "rows",
    [
        "q2 1 d3 0\nq2 2 d3 2\nq2 3 d3 1\nq2 1 d4 0\n",  # by sub-topic
        "q2\td3\t2\nq2\td4\t-2\nq2\td4\t0\nq2\td3\t0\n",  # two assessors
        "q2 0 d4 0\nq2 0 d3 2\nq2 0 d3 2\n",  # the same again
    ],
)
def test_a_pair_that_is_judged_more_than_once_keeps_the_highest_grade(tmp_path, caplog, mode, rows):
    folder = beir.write(tmp_path / "in", train=None, test=rows.encode())
    stats = prepare(folder, tmp_path / "out", mode)
    assert found(tmp_path / "out") == {("q2", "d3", 2), ("q2", "d4", 0)}
    assert stats.repeated_judgements == rows.count("\n") - 2 and stats.dropped == 0
    assert "judged before (the highest grade counts)" in caplog.text


def test_negative_grades_stay_and_are_not_relevant(tmp_path):
    prepare(beir.write(tmp_path / "in", test=b"q2 0 d3 1\nq2 0 d4 -2\nq2 0 d1 -1\n"), tmp_path / "out")
    assert {("q2", "d4", -2), ("q2", "d1", -1)} <= found(tmp_path / "out")


def test_published_labels_of_which_none_fits_are_refused(tmp_path):
    folder = beir.write(tmp_path / "in")
    for content, mode in (("1\t-1\tq9\td2\n1\t-1\tq1\td99\n", "repair"), ("", "refuse"), ("\n\n", "repair")):
        (tmp_path / "labels.tsv").write_text(content)
        with pytest.raises(BadCollection, match=r"labels\.tsv: none of its \d soft labels belongs to a training query"):
            prepare(folder, tmp_path / "out", mode, labels=f"inranker-msmarco:{tmp_path / 'labels.tsv'}")


# --- what is no file, or another than its name says -------------------------------------------------------------------


def _fifo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def _folder(path):
    path.mkdir(parents=True)


def _loop(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path)


def _nowhere(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_fifo, _folder, _loop, _nowhere])
@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "corpus.parquet"])
def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path, make, name):
    replaced = {
        "corpus.jsonl": {"corpus": None},
        "corpus.parquet": {"corpus": None},
        "queries.jsonl": {"queries": None},
    }
    folder = beir.write(tmp_path / "in", **replaced.get(name, {"test": None}))
    make(folder / name)
    with pytest.raises(
        BadCollection, match=r"no regular file|a folder|a link to nothing|a link that leads back"
    ) as caught:
        prepare(folder, tmp_path / "out")
    assert name in str(caught.value)
    with pytest.raises(BadCollection):
        check_collection(CorpusConfig(uri=str(folder), name="x"))


def test_a_pipe_as_collection_is_refused_without_waiting(tmp_path):
    for name in ("pipe", "pipe.parquet"):
        os.mkfifo(tmp_path / name)
        with refuses("collection-form"):
            prepare(tmp_path / name, tmp_path / "out")
        with refuses("collection-form"):
            check_collection(CorpusConfig(uri=str(tmp_path / name), name="x"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "is a ZIP archive: unpack it"),
        (b"PAR1rest", "is a Parquet file: give it the suffix"),
        (b"\x28\xb5\x2f\xfdrest", "not a whole zstd file"),
        (b"BZh91AY", "is compressed with bzip2"),
        (b"\xfd7zXZ\x00", "is compressed with xz"),
        (b"SQLite format 3\x00", "is a database"),
        (b"\xff\xfe{", "not utf-16-le throughout"),
        (b"\xff\xfe\x00\x00{", "not utf-32"),
    ],
)
@pytest.mark.parametrize("mode", ["refuse", "repair"])
def test_a_file_that_is_another_than_its_name_says_is_named(tmp_path, content, message, mode):
    with pytest.raises(BadCollection, match=message):
        prepare(beir.write(tmp_path / "in", corpus=content), tmp_path / "out", mode)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_documents_in_other_encodings_with_a_mark_are_read(tmp_path, encoding):
    text = "".join(
        json.dumps({**row, "text": row["text"] + " é\u0085中"}, ensure_ascii=False) + "\n" for row in beir.CORPUS
    )
    prepare(beir.write(tmp_path / "in", corpus=text.encode(encoding)), tmp_path / "out")
    first = tables.read(tables.CORPUS, tmp_path / "out").to_pylist()[0]
    assert first["text"].endswith(" é\u0085中") and first["doc_id"] == "d1"


@pytest.mark.parametrize(
    "names", [("docs.csv",), ("corpus.zip",), ("documents.jsonl",), ("corpus.jsonl.bz2",), ("a/corpus.tsv",)]
)
def test_documents_in_a_form_that_is_not_read_are_named(tmp_path, names):
    folder = beir.write(tmp_path / "in", dict.fromkeys(names, b"x"), corpus=None)
    with pytest.raises(
        BadCollection, match=rf"holds neither corpus.jsonl .*; {names[0]} is not read: write corpus.jsonl"
    ):
        prepare(folder, tmp_path / "out")


def test_a_collection_that_lies_a_folder_deeper_is_found_for_the_person(tmp_path):
    folder = beir.write(tmp_path / "in", {"scifact/corpus.jsonl": CORPUS}, corpus=None)
    with pytest.raises(BadCollection, match=r"scifact/corpus.jsonl does: give the folder scifact in it"):
        prepare(folder, tmp_path / "out")


def test_a_training_split_in_an_unknown_form_is_not_lost_either(tmp_path):
    with pytest.raises(
        BadCollection, match=r"qrels/train.xlsx: judgements in a form that is not read; write qrels/train.tsv"
    ):
        prepare(beir.write(tmp_path / "in", {"qrels/train.xlsx": b"x"}, train=None), tmp_path / "out")
    assert prepare(beir.write(tmp_path / "b", {"qrels/train.xlsx": b"x"}), tmp_path / "out").train_queries == 2


def test_a_mount_in_trouble_is_not_the_collections_fault(tmp_path, monkeypatch):
    folder = beir.write(tmp_path / "in")

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(layout.os, "scandir", refused)
    with refuses("disk-unreadable") as caught:
        prepare(folder, tmp_path / "out")
    assert not isinstance(caught.value, BadCollection)


def test_several_collections_in_one_folder_are_named(tmp_path):
    files = {f"{language}-corpus/data.parquet": DOCS for language in ("de", "en")}
    with pytest.raises(
        BadCollection, match=r"holds several collections \(de-corpus, en-corpus\); give each its own folder"
    ):
        prepare(beir.write(tmp_path / "in", files, corpus=None), tmp_path / "out")


def test_names_that_no_terminal_can_show_are_shown_in_part(tmp_path):
    folder = beir.write(tmp_path / "in", test=None)
    for name in (b"qrels/te\nst.tsv", b"qrels/caf\xe9.tsv"):
        (folder / os.fsdecode(name)).write_bytes(TEST)
    stats = prepare(folder, tmp_path / "out")
    assert "qrels/te\\nst.tsv" in stats.not_evaluated and "caf\\xe9.tsv" in stats.not_evaluated
    assert stats.not_evaluated.isprintable()


@pytest.mark.parametrize(
    "name", ["runs/test.trec", "README.md", "qrels/README.md", "SOURCE.json", "train.json", "_SUCCESS", "labels.tsv"]
)
def test_other_files_are_none_of_its_business(tmp_path, name):
    stats = prepare(beir.write(tmp_path / "in", {name: b"q2 Q0 d3 1 9.5 bm25\n"}), tmp_path / "out")
    assert (stats.test_queries, stats.train_queries, stats.not_evaluated) == (1, 2, "")


def test_layouts_lie_in_s3_too(s3, tmp_path):
    from inranker_flow.storage import uris

    folder = beir.write(tmp_path / "in", {"data/test-00000-of-00001.parquet": judged(beir.TEST)}, train=None, test=None)
    uris.upload(folder, f"{s3}/hub")
    assert check_collection(CorpusConfig(uri=f"{s3}/hub", name="x")) == f"{s3}/hub: readable"
    assert prepare(f"{s3}/hub", tmp_path / "out").test_queries == 1
    uris.upload(beir.write(tmp_path / "empty", test=beir.tsv([])), f"{s3}/empty")
    with refuses("judgements-form", "qrels/test.tsv"):
        check_collection(CorpusConfig(uri=f"{s3}/empty", name="x"))
