"""Collections: every source gives the same tables, limits are fair, the fingerprint sees content and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.hashing import Fingerprint, HashSet, contains, hash_rows, priorities
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.corpora.passage import default_text
from inranker_flow.errors import UserError
from inranker_flow.stages.prepare_corpus import prepare_corpus
from tests import beir
from tests.refusals import refuses

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def prepare(uri, folder, labels="", **config):
    corpus = CorpusConfig(uri=str(uri), name="sample", labels=labels)
    return prepare_corpus(PrepareConfig(**config), corpus, folder)


def rows(table, folder):
    return tables.read(table, folder).to_pylist()


def problems(folder):
    return {each["kind"]: each for each in read_manifest(folder).details["problems"]}


def test_default_text_is_one_space():
    assert default_text("Oak", "A tree.") == "Oak A tree."
    assert default_text("", "A tree.") == "A tree."
    assert default_text("Oak", "") == "Oak"
    assert default_text(" ", "") == ""


def test_beir_folder(tmp_path):
    stats = prepare(beir.write(tmp_path / "beir"), tmp_path / "out")
    assert (stats.documents, stats.train_queries, stats.test_queries, stats.judgements) == (4, 2, 1, 4)
    assert stats.dropped == 0
    assert rows(tables.CORPUS, tmp_path / "out")[0] == {
        "doc_id": "d1", "title": "Oak", "text": "Oaks are trees with acorns.",
    }  # fmt: skip
    origins = {row["query_id"]: row["origin"] for row in rows(tables.QUERIES, tmp_path / "out")}
    assert origins == {"q1": "supervised", "q2": "test", "q3": "supervised"}
    judged = {(row["query_id"], row["doc_id"], row["relevance"]) for row in rows(tables.QRELS, tmp_path / "out")}
    assert judged == {*beir.TRAIN, *beir.TEST}
    manifest = read_manifest(tmp_path / "out")
    assert manifest.dataset == "sample" and manifest.details["fingerprint"] == stats.fingerprint
    assert manifest.details["counts"]["documents"] == 4 and manifest.details["problems"] == []
    assert set(manifest.files) == {"corpus.parquet", "queries.parquet", "qrels.parquet"}


def test_gzip_trec_qrels_bom_and_next_line_characters(tmp_path):
    corpus = [*beir.CORPUS, {"_id": 5, "text": "one\u0085two\u2028three"}]  # MS MARCO holds U+0085
    folder = beir.write(
        tmp_path / "beir", {"corpus.jsonl.gz": b"\xef\xbb\xbf" + beir.jsonl(corpus) + b"\n"},
        corpus=None, train=None, test=b"q2 0 d3 1\nq2 0 5 1.0\r\n",
    )  # fmt: skip
    stats = prepare(folder, tmp_path / "out")
    assert (stats.documents, stats.test_queries, stats.judgements) == (5, 1, 2)
    assert rows(tables.CORPUS, tmp_path / "out")[4] == {"doc_id": "5", "title": "", "text": "one\u0085two\u2028three"}
    assert stats.unjudged_queries == 2, "q1 and q3 have no judgement without the training split"
    assert problems(tmp_path / "out")["unjudged_query"]["count"] == 2


def test_corpus_alone_is_a_target(tmp_path):
    stats = prepare(beir.write(tmp_path / "beir", queries=None, train=None, test=None), tmp_path / "out")
    assert (stats.documents, stats.train_queries, stats.test_queries, stats.judgements) == (4, 0, 0, 0)
    assert rows(tables.QUERIES, tmp_path / "out") == []


def test_splits_by_other_names(tmp_path):
    folder = beir.write(tmp_path / "beir", {"qrels/dev.tsv": beir.tsv(beir.TEST)}, train=None, test=None)
    with refuses("collection-split", "train.tsv", "test.tsv", "train_split"):
        prepare(folder, tmp_path / "out")
    corpus = CorpusConfig(uri=str(folder), name="sample", test_split="dev")
    assert prepare_corpus(PrepareConfig(), corpus, tmp_path / "out").test_queries == 1


def test_fingerprint_sees_content_and_not_layout(tmp_path):
    mark = prepare(beir.write(tmp_path / "a"), tmp_path / "out").fingerprint
    shuffled = beir.write(
        tmp_path / "b", {"corpus.jsonl.gz": beir.jsonl(beir.CORPUS[::-1])},
        corpus=None, queries=beir.jsonl(beir.QUERIES[::-1]), train=beir.tsv(beir.TRAIN[::-1]),
    )  # fmt: skip
    assert prepare(shuffled, tmp_path / "out").fingerprint == mark
    title_to_text = [{**beir.CORPUS[0], "title": "", "text": "Oak Oaks are trees with acorns."}, *beir.CORPUS[1:]]
    changed = (
        {"corpus": beir.jsonl(title_to_text)},
        {"queries": beir.jsonl([{**beir.QUERIES[0], "text": "hard rocks"}, *beir.QUERIES[1:]])},
        {"test": beir.tsv([("q2", "d3", 2), ("q2", "d4", 0)])},
        {"train": beir.tsv(beir.TEST), "test": beir.tsv(beir.TRAIN)},
    )
    marks = {
        prepare(beir.write(tmp_path / f"c{i}", **each), tmp_path / "out").fingerprint for i, each in enumerate(changed)
    }
    assert len(marks | {mark}) == 5


def test_parquet_sources(tmp_path):
    first = prepare(beir.write(tmp_path / "beir"), tmp_path / "first")
    assert prepare(tmp_path / "first", tmp_path / "again") == first, "a prepared collection is a source itself"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    columns = {key: [row[key] for row in beir.CORPUS] for key in ("_id", "title", "text")}
    pq.write_table(pa.table(columns), foreign / "corpus.parquet")
    pq.write_table(
        pa.table({key: [row[key] for row in beir.QUERIES] for key in ("_id", "text")}), foreign / "queries.parquet"
    )
    judged = [(*row, "train") for row in beir.TRAIN] + [(*row, "test") for row in beir.TEST]
    names = ("query-id", "corpus-id", "score", "split")
    pq.write_table(
        pa.table(dict(zip(names, map(list, zip(*judged, strict=True)), strict=True))), foreign / "qrels.parquet"
    )
    assert prepare(foreign, tmp_path / "out") == first
    single = prepare(foreign / "corpus.parquet", tmp_path / "out")
    assert (single.documents, single.judgements) == (4, 0)
    pq.write_table(pa.table({"name": ["x"], "text": ["y"]}), foreign / "corpus.parquet")
    with refuses("collection-column", "corpus.parquet", "doc_id"):
        prepare(foreign, tmp_path / "out")


@pytest.fixture
def registered():
    """A data set known to ir_datasets, made of local rows as lightning-ir does."""
    import ir_datasets
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.formats import (
        BaseDocs,
        BaseQrels,
        BaseQueries,
        GenericDoc,
        GenericQrel,
        GenericQuery,
        TitleUrlTextDoc,
    )

    class Docs(BaseDocs):
        def docs_iter(self):
            return (TitleUrlTextDoc(row["_id"], row["title"], "", row["text"]) for row in beir.CORPUS)

        def docs_count(self):
            return len(beir.CORPUS)

        def docs_cls(self):
            return GenericDoc

    class Queries(BaseQueries):
        def queries_iter(self):
            return (GenericQuery(row["_id"], row["text"]) for row in beir.QUERIES)

    class Qrels(BaseQrels):
        def __init__(self, judged):
            self._judged = judged

        def qrels_iter(self):
            return (GenericQrel(*row) for row in self._judged)

        def qrels_defs(self):
            return {}

    names = []
    for split, judged in (("train", beir.TRAIN), ("test", beir.TEST)):
        names.append(f"inranker-test-{random.randrange(10**9)}/{split}")
        ir_datasets.registry.register(names[-1], Dataset(Docs(), Queries(), Qrels(judged)))
    return names


def test_ir_datasets(registered, tmp_path):
    train, test = (prepare(f"ir_datasets:{name}", tmp_path / f"out{i}") for i, name in enumerate(registered))
    assert (train.documents, train.train_queries, train.test_queries, train.judgements) == (4, 2, 0, 2)
    assert (test.documents, test.train_queries, test.test_queries, test.judgements) == (4, 0, 1, 2)
    prepare(beir.write(tmp_path / "beir"), tmp_path / "beir-out")
    assert rows(tables.CORPUS, tmp_path / "out0") == rows(tables.CORPUS, tmp_path / "beir-out")
    with refuses("dataset-unknown", "ir_datasets"):
        prepare("ir_datasets:beir/no-such-thing", tmp_path / "out")


def test_demo(tmp_path):
    source = prepare("demo:source/3", tmp_path / "source")
    target = prepare("demo:target/3", tmp_path / "target")
    assert source.train_queries > 100 and source.test_queries > 100 and source.documents == target.documents
    assert target.train_queries == 0 and target.test_queries > 100
    assert prepare("demo:target/3", tmp_path / "target").fingerprint == target.fingerprint
    assert prepare("demo:target/4", tmp_path / "target").fingerprint != target.fingerprint
    with refuses("demo-unknown", "source/SEED"):
        prepare("demo:elsewhere/3", tmp_path / "out")


# --- limits -----------------------------------------------------------------------------------------------------------


def many(folder, order):
    documents = [{"_id": f"d{i}", "title": "", "text": f"passage number {i}"} for i in order(range(300))]
    queries = [{"_id": f"q{i}", "text": f"number {i}"} for i in order(range(100))]
    train = [(f"q{i}", f"d{i}", 1) for i in order(range(60))]
    test = [(f"q{i}", f"d{i + 100}", i % 2) for i in order(range(60, 100))]
    return beir.write(
        folder, corpus=beir.jsonl(documents), queries=beir.jsonl(queries), train=beir.tsv(train), test=beir.tsv(test)
    )


def test_limits_sample_by_id_and_keep_what_is_judged(tmp_path):
    limits = {"max_documents": 50, "max_train_queries": 10, "max_test_queries": 5}
    stats = prepare(many(tmp_path / "a", list), tmp_path / "one", seed=1, **limits)
    assert (stats.documents, stats.train_queries, stats.test_queries, stats.judgements) == (50, 10, 5, 15)
    kept = {row["doc_id"] for row in rows(tables.CORPUS, tmp_path / "one")}
    assert {row["doc_id"] for row in rows(tables.QRELS, tmp_path / "one")} <= kept
    reverse = prepare(many(tmp_path / "b", lambda each: list(each)[::-1]), tmp_path / "two", seed=1, **limits)
    assert reverse.fingerprint == stats.fingerprint, "the order in the file does not matter"
    other = prepare(tmp_path / "a", tmp_path / "three", seed=2, **limits)
    assert other.fingerprint != stats.fingerprint
    few = prepare(tmp_path / "a", tmp_path / "few", **{**limits, "max_documents": 3})
    assert few.documents == 15, "judged documents stay, however small the limit"
    unlimited = prepare(tmp_path / "a", tmp_path / "all", max_documents=1000, max_train_queries=1000)
    assert (unlimited.documents, unlimited.train_queries) == (300, 60)


def test_priorities_are_uniform():
    numbers = priorities(7, [f"q{i}" for i in range(20_000)]) / 2**64
    assert abs(numbers.mean() - 0.5) < 0.01 and abs(np.quantile(numbers, 0.1) - 0.1) < 0.01


# --- published soft labels --------------------------------------------------------------------------------------------


def test_inranker_msmarco_labels_are_kept_as_they_are(tmp_path):
    # true logit, false logit, query, document; q2 is labelled and not judged
    (tmp_path / "labels.tsv").write_text("-1.25\t-7.5\tq1\td2\n3.5\t-0.125\tq1\td1\n0.1\t0.30000000000000004\tq2\td3\n")
    folder = beir.write(tmp_path / "beir", test=None)
    stats = prepare(folder, tmp_path / "out", labels=f"inranker-msmarco:{tmp_path / 'labels.tsv'}")
    assert (stats.published_labels, stats.train_queries) == (3, 3)
    assert rows(tables.LABELS, tmp_path / "out") == [
        {"query_id": "q1", "doc_id": "d2", "false_logit": -7.5, "true_logit": -1.25},
        {"query_id": "q1", "doc_id": "d1", "false_logit": -0.125, "true_logit": 3.5},
        {"query_id": "q2", "doc_id": "d3", "false_logit": 0.30000000000000004, "true_logit": 0.1},
    ]
    limited = prepare(
        folder, tmp_path / "out", f"inranker-msmarco:{tmp_path / 'labels.tsv'}", max_train_queries=1, max_documents=1
    )
    labelled = {row["query_id"] for row in rows(tables.LABELS, tmp_path / "out")}
    assert limited.train_queries == 1 and len(labelled) <= 1, (
        "labels of queries outside the sample are left out silently"
    )
    documents = {row["doc_id"] for row in rows(tables.CORPUS, tmp_path / "out")}
    assert {row["doc_id"] for row in rows(tables.LABELS, tmp_path / "out")} <= documents


def test_inranker_msmarco_labels_that_do_not_fit(tmp_path):
    lines = [
        "1\t-1\tq1\td2", "1\t-1\tq1\td2", "1\t-1\tq9\td2", "1\t-1\tq1\td9", "1\t-1\tq2\td1",
        "1\t-1\t1", "nan\t-1\tq1\td4", "2\t-2\tq3\td1",
    ]  # fmt: skip
    (tmp_path / "labels.tsv").write_text("\n".join(lines))
    labels = f"inranker-msmarco:{tmp_path / 'labels.tsv'}"
    folder = beir.write(tmp_path / "beir")
    with pytest.raises(UserError, match=r"labels\.tsv line 6: not the four columns .* 2 malformed rows in all"):
        prepare(folder, tmp_path / "out", labels)
    assert not (tmp_path / "out" / "manifest.json").exists()
    stats = prepare(folder, tmp_path / "out", labels, on_problem="repair")
    assert (stats.published_labels, stats.dropped) == (2, 6)
    found = {kind: (each["count"], each["examples"][0]["line"]) for kind, each in problems(tmp_path / "out").items()}
    assert found == {
        "malformed": (2, 6), "duplicate_label": (1, 2), "label_unknown_query": (1, 3), "label_unknown_document": (1, 4),
        "label_of_test_query": (1, 5),
    }  # fmt: skip


def test_inranker_beir_file(tmp_path):
    published = [
        {"query": "hard rock", "contents": "Granite is hard.", "true_logit": 2.5, "false_logit": -2.5},
        {"query": "hard rock", "contents": "Rain falls.", "true_logit": -9.0, "false_logit": 1.0},
        {"query": "wet", "contents": "Rain falls.", "true_logit": 0.5, "false_logit": 0.25},
    ]
    (tmp_path / "file.jsonl").write_text("".join(json.dumps(row) + "\n" for row in published))
    stats = prepare(f"inranker-beir:{tmp_path / 'file.jsonl'}", tmp_path / "out")
    assert (stats.documents, stats.synthetic_queries, stats.published_labels, stats.judgements) == (2, 2, 3, 0)
    texts = {row["doc_id"]: row["text"] for row in rows(tables.CORPUS, tmp_path / "out")}
    queries = {row["query_id"]: row["text"] for row in rows(tables.QUERIES, tmp_path / "out")}
    assert {row["origin"] for row in rows(tables.QUERIES, tmp_path / "out")} == {"synthetic"}
    joined = [
        {"query": queries[row["query_id"]], "contents": texts[row["doc_id"]], "true_logit": row["true_logit"],
         "false_logit": row["false_logit"]}
        for row in rows(tables.LABELS, tmp_path / "out")
    ]  # fmt: skip
    assert joined == published
    one = prepare(f"inranker-beir:{tmp_path / 'file.jsonl'}", tmp_path / "out", max_train_queries=1)
    assert one.synthetic_queries == 1 and one.published_labels in (1, 2)
    (tmp_path / "file.jsonl").write_text(json.dumps({**published[0], "true_logit": None}))
    with pytest.raises(UserError, match=r"file\.jsonl line 1: logit .None. is not a finite number; 1 malformed"):
        prepare(f"inranker-beir:{tmp_path / 'file.jsonl'}", tmp_path / "out")


# --- hashing ----------------------------------------------------------------------------------------------------------


def test_hash_set_tells_what_is_new():
    generator = random.Random(5)
    seen, reference = HashSet(), set()
    for size in (1, 5, 300, 40, 1000, 0, 7, 2000):
        batch = [f"id{generator.randrange(1500)}" for _ in range(size)]
        hashes = hash_rows(batch) if batch else np.empty((0, 2), np.uint64)
        expected = [not (each in reference or reference.add(each)) for each in batch]
        assert seen.add(hashes).tolist() == expected
    assert contains(seen.first_words(), hash_rows(sorted(reference))[:, 0]).all()
    assert not contains(seen.first_words(), hash_rows(["other"])[:, 0]).any()


def test_fingerprint_counts_repeated_rows():
    marks = set()
    for values in (["a", "b"], ["a", "a", "b"], ["a", "b", "b"], ["a", "b", "a", "b"]):
        mark = Fingerprint()
        mark.add("corpus", hash_rows(values))
        marks.add(mark.hexdigest())
    assert len(marks) == 4


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not beside the checkout")
def test_real_collection(tmp_path):
    stats = prepare(DATA / "collections" / "cisi", tmp_path / "out")
    assert (stats.documents, stats.test_queries, stats.judgements) == (1460, 76, 3114)
