"""ir_datasets: fields by their types, splits by the catalogue, and one line for what cannot be read."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.corpora.sources import irdatasets
from inranker_flow.errors import UserError
from inranker_flow.planning.counting import count
from inranker_flow.preflight.collections import check_collection, check_source
from inranker_flow.stages.prepare_corpus import prepare_corpus
from tests.refusals import refuses


@pytest.fixture
def register():
    """A data set of local rows under a new id that ends in ``tail``."""
    import ir_datasets
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.formats import BaseDocs, BaseQrels, BaseQueries

    def made(tail: str, docs=(), queries=(), qrels=()) -> str:
        class Docs(BaseDocs):
            def docs_iter(self):
                return iter(docs)

            def docs_count(self):
                return len(docs)

            def docs_cls(self):
                return type(docs[0])

        class Queries(BaseQueries):
            def queries_iter(self):
                return iter(queries)

            def queries_cls(self):
                return type(queries[0])

        class Qrels(BaseQrels):
            def qrels_iter(self):
                return iter(qrels)

            def qrels_defs(self):
                return {}

        parts = [*([Docs()] if docs else []), *([Queries()] if queries else []), *([Qrels()] if qrels else [])]
        name = f"inranker-{random.randrange(10**9)}/{tail}"
        ir_datasets.registry.register(name, Dataset(*parts))
        return name

    return made


def prepare(name, folder, on_problem="refuse", **corpus):
    config = CorpusConfig(uri=f"ir_datasets:{name}", name="sample", **corpus)
    return prepare_corpus(PrepareConfig(on_problem=on_problem), config, folder)


class Query(NamedTuple):
    query_id: str
    text: object


class Qrel(NamedTuple):
    query_id: str
    doc_id: str
    relevance: object


JUDGED = [Qrel("q1", "d1", 1)]
ASKED = [Query("q1", "why")]


def kind(*fields: str) -> type:
    return NamedTuple("Doc", [(name, object) for name in ("doc_id", *fields)])


@pytest.mark.parametrize(
    ("fields", "values", "title", "text"),
    [
        (("text",), ("one",), "", "one"),
        (("title", "text"), ("two", "one"), "two", "one"),
        (("title", "text"), (None, "one"), "", "one"),
        (("headline", "body", "url"), ("two", "one", "http"), "two", "one"),
        (("title", "abstract", "body", "doi"), ("t", "a", None, "10.1"), "t", "a"),
        (
            ("repo", "path", "func_name", "code", "language"),
            ("r", "p", "f", "def f(): pass", "python"),
            "f",
            "def f(): pass",
        ),
        (
            ("title", "condition", "summary", "detailed_description", "eligibility"),
            ("t", "c", "s", "d", "e"),
            "t",
            "c s d e",
        ),
        (("conclusion", "premises_texts", "source_url"), ("c", ["p", "q"], "u"), "c", "p q"),
        (("title", "passage"), ("t", ("p", "q")), "t", "p q"),
    ],
)
def test_documents_without_a_say_of_their_own_are_read_by_their_fields(register, tmp_path, fields, values, title, text):
    name = register("test", [kind(*fields)("d1", *values)], ASKED, JUDGED)
    assert prepare(name, tmp_path).test_queries == 1
    assert tables.read(tables.CORPUS, tmp_path).to_pylist() == [{"doc_id": "d1", "title": title, "text": text}]
    assert "known, the test split" in check_collection(CorpusConfig(uri=f"ir_datasets:{name}", name="x"))


def test_fields_that_nobody_knows_are_named_with_the_setting(register, tmp_path):
    name = register("test", [kind("png", "alt", "caption")("d1", b"", "a", "c")], ASKED, JUDGED)
    corpus = CorpusConfig(uri=f"ir_datasets:{name}", name="x")
    for act in (lambda: prepare(name, tmp_path), lambda: check_collection(corpus)):
        with refuses("dataset-fields", "text_fields", "doc_id"):
            act()
    prepare(name, tmp_path, text_fields=("alt", "caption"))
    assert tables.read(tables.CORPUS, tmp_path).column("text").to_pylist() == ["a c"]
    with pytest.raises(UserError, match=r"text_fields: its documents have no 'body' \(they have: doc_id, png"):
        prepare(name, tmp_path, text_fields=("body",))


def test_fields_of_queries_are_chosen_likewise(register, tmp_path):
    class Asked(NamedTuple):
        query_id: str
        url: str
        topic: str

    name = register("test", [kind("text")("d1", "one")], [Asked("q1", "http", "why")], JUDGED)
    with refuses("dataset-fields", "query_fields", "query_id"):
        prepare(name, tmp_path)
    prepare(name, tmp_path, query_fields=("topic",))
    assert tables.read(tables.QUERIES, tmp_path).column("text").to_pylist() == ["why"]


def test_unused_settings_leave_the_identity_of_a_corpus_as_it_was(tmp_path):
    plain = CorpusConfig(uri="u", name="a", fingerprint="f")
    assert not {"text_fields", "query_fields"} & set(plain.content)
    assert CorpusConfig(uri="u", name="a", fingerprint="f", text_fields=("x",)).content != plain.content
    assert parse(CorpusConfig, {"uri": "u", "name": "a", "text_fields": ["x", "y"]}, "source").text_fields == ("x", "y")
    with refuses("setting-conflict", "text_fields", "query_fields", "ir_datasets"):
        prepare_corpus(PrepareConfig(), CorpusConfig(uri="demo:source/1", name="x", text_fields=("x",)), tmp_path)


@pytest.mark.parametrize(
    ("doc", "said"),
    [
        (kind("text")("d2", 3), "'text' is '3' and not text"),
        (kind("text")("d2", {"a": 1}), "and not text"),
        (kind("text")("d2", [1, 2]), "and not text"),
        (kind("text")(None, "x"), "'doc_id' is 'None' and not text"),
        (kind("text")(2.5, "x"), "'doc_id' is '2.5' and not text"),
        (kind("text")("d2", None), "document 'd2' has no text"),
    ],
)
def test_values_that_are_no_text_are_rows_to_be_mended(register, tmp_path, doc, said):
    name = register("test", [kind("text")("d1", "one"), doc], ASKED, JUDGED)
    with pytest.raises(UserError, match=said):
        prepare(name, tmp_path)
    assert prepare(name, tmp_path, "repair").documents == 1


def test_a_data_set_that_stumbles_over_a_row_is_no_end(register, tmp_path):
    class Doc(NamedTuple):
        doc_id: str
        parts: object

        def default_text(self):
            return "".join(self.parts)

    name = register("test", [Doc("d1", ["one"]), Doc("d2", None)], ASKED, JUDGED)
    with refuses("collection-row", "line 2", "ir_datasets"):
        prepare(name, tmp_path)
    assert prepare(name, tmp_path, "repair").documents == 1


def test_the_highest_grade_counts_here_too(register, tmp_path):
    qrels = [Qrel("q1", "d1", 0), Qrel("q1", "d1", 2), Qrel("q1", "d1", 1)]
    name = register("test", [kind("text")("d1", "one")], ASKED, qrels)
    assert prepare(name, tmp_path).repeated_judgements == 2
    assert tables.read(tables.QRELS, tmp_path).column("relevance").to_pylist() == [2]


# --- the catalogue, without a download --------------------------------------------------------------------------------

CORPUS = CorpusConfig(uri="", name="")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("msmarco-passage/train", "train"),
        ("msmarco-passage/train/judged", "train"),
        ("msmarco-passage/train/split200-valid", "test"),
        ("antique/train/split200-train", "train"),
        ("msmarco-passage/trec-dl-2019/judged", "test"),
        ("beir/msmarco/test", "test"),
        ("beir/fever/dev", "test"),
        ("nfcorpus/train/video", "train"),
        ("wikir/en1k/training", "train"),
        ("wikir/en1k/validation", "test"),
        ("car/v1.5/train/fold0", "train"),
        ("tripclick/train/head/dctr", "train"),
        ("mmarco/pt/train/v1.1", "train"),
        ("lotte/science/dev/forum", "test"),
        ("istella22/test/fold1", "test"),
        ("vaswani", "test"),
        ("bright/pony", "test"),
    ],
)
def test_the_split_is_the_last_part_of_an_id_that_names_one(name, split):
    assert name in irdatasets.ids()
    assert irdatasets.split_of(name, CORPUS) == split
    corpus = CorpusConfig(uri=f"ir_datasets:{name}", name="x")
    assert f"the {split} split" in check_collection(corpus)
    counted = count(corpus, PrepareConfig()) if name != "vaswani" else None
    assert counted is None or bool(counted.train_queries) == (split == "train" and bool(counted.train_queries))


def test_the_configuration_names_a_split_that_has_a_name_of_its_own():
    assert irdatasets.split_of("msmarco-document/orcas", CorpusConfig(uri="", name="", train_split="orcas")) == "train"
    assert irdatasets.split_of("a/dev", CorpusConfig(uri="", name="", train_split="dev", test_split="test")) == "train"


def test_every_data_set_of_the_catalogue_can_be_read_or_says_which_setting_to_choose():
    import ir_datasets

    refused = {}
    for name in irdatasets.ids():
        if name.startswith("inranker-"):  # another test's
            continue
        dataset = ir_datasets.registry[name]
        if not dataset.has_docs():
            continue
        try:
            irdatasets.check_fields(name, dataset, CORPUS)
        except UserError as error:
            refused[name] = str(error)
    assert set(refused) == {
        "touche-image/2022-06-13", "touche-image/2022-06-13/touche-2022-task-3",
        "wapo/v2/trec-news-2018", "wapo/v2/trec-news-2019",
    }  # fmt: skip
    assert all("_fields to some of their fields (" in each for each in refused.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("beir/scifct", "did you mean beir/scifact"),
        ("MSMARCO-passage", "did you mean msmarco-passage"),
        ("nothing-like-it-at-all", "see https://ir-datasets.com"),
        ("", "ir_datasets knows no such id"),
        ("bright", "has no documents; give an id that has, such as bright/aops"),
    ],
)
def test_ids_that_cannot_be_meant(name, message, tmp_path):
    for act in (
        lambda: prepare(name, tmp_path),
        lambda: check_collection(CorpusConfig(uri=f"ir_datasets:{name}", name="x")),
        lambda: count(CorpusConfig(uri=f"ir_datasets:{name}", name="x"), PrepareConfig()),
    ):
        with pytest.raises(UserError, match=message) as caught:
            act()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("beir/scifact/test", "as source it needs judgements of a training split.* give one of beir/scifact/train"),
        ("beir/scifact", "give one of beir/scifact/train, or set train_split"),
        ("vaswani", "give an id that has, or set train_split"),
    ],
)
def test_a_source_without_a_training_split_is_told_which_has_one(name, message):
    with pytest.raises(UserError, match=message):
        check_source(CorpusConfig(uri=f"ir_datasets:{name}", name="x"))
    assert check_source(CorpusConfig(uri="ir_datasets:beir/scifact/train", name="x"))
    assert check_source(CorpusConfig(uri="ir_datasets:msmarco-passage/train/judged", name="x"))


def test_what_will_not_be_evaluated_is_said_by_the_catalogue(register, tmp_path):
    said = check_collection(CorpusConfig(uri="ir_datasets:beir/scifact", name="x"))
    assert "will NOT be evaluated: ir_datasets:beir/scifact has no judgements; some are in beir/scifact/test" in said
    assert "is a training split" in check_collection(CorpusConfig(uri="ir_datasets:beir/scifact/train", name="x"))
    assert "documents must be there already" in check_collection(
        CorpusConfig(uri="ir_datasets:disks45/nocr/trec8", name="x")
    )
    name = register("test", [kind("text")("d1", "one")], ASKED)
    assert prepare(name, tmp_path).not_evaluated == f"ir_datasets:{name} has no judgements"
    assert read_manifest(tmp_path).details["not_evaluated"]


@pytest.mark.parametrize(
    "error",
    [
        OSError("no network"),
        RuntimeError("sources failed"),
        ImportError("No module named 'x'"),
        KeyError("x"),
        EOFError(),
    ],
)
def test_whatever_a_data_set_raises_is_one_line_with_its_cause(register, tmp_path, monkeypatch, error):
    name = register("test", [kind("text")("d1", "one")], ASKED, JUDGED)

    def broken(*_):
        raise error

    monkeypatch.setattr(type(irdatasets.look_up(name).docs_handler()), "docs_iter", broken)
    with pytest.raises(UserError, match=r"cannot be read .*give a BEIR folder or s3:// instead"):
        prepare(name, tmp_path)


def test_rows_without_named_fields_are_read_by_the_names_they_have(tmp_path, register):
    class Query:
        def __init__(self, query_id, text):
            self.query_id, self.text = query_id, text

    name = register(
        "test",
        [{"doc_id": "d1", "text": "one", "from": "x"}, {"doc_id": "d2", "title": "two", "text": None}],
        [Query("q1", "what is one")],
        [{"query_id": "q1", "doc_id": "d1", "relevance": 1}],
    )
    stats = prepare(name, tmp_path)
    assert (stats.documents, stats.test_queries, stats.judgements) == (2, 1, 1)
    assert tables.read(tables.CORPUS, tmp_path).column("title").to_pylist() == ["", "two"]


def test_a_data_set_that_stumbles_over_its_own_types_is_refused_in_one_line(tmp_path, register):
    class Query(NamedTuple):
        query_id: str
        text: str

    class Empty(list):
        def __bool__(self):
            return True  # has documents, and none of them

    name = register("test", Empty(), [Query("q1", "x")])
    with refuses("collection-empty"):
        prepare(name, tmp_path)
