"""What a team has of its own beside documents: queries that people asked, and soft labels of pairs."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inranker_flow import profiles
from inranker_flow.artifacts import tables
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, GenerateConfig, PrepareConfig
from inranker_flow.environment import variables
from inranker_flow.planning.counting import count
from inranker_flow.planning.planner import make_plan
from inranker_flow.stages.generate_queries import generate_queries, help_generate
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.retrieve import retrieve
from tests import beir
from tests.models import read_queries
from tests.planning import by_size_alone
from tests.refusals import refuses

#: Beside the judged queries of `beir`: two of use, one repeated, one that is a test query in other letters.
ASKED = [
    {"_id": "l1", "text": "why is granite hard"},
    {"_id": "l2", "text": "rain clouds"},
    {"_id": "l3", "text": "Rain, clouds?"},
    {"_id": "l4", "text": "Sea mammal!"},
]


def prepared(tmp_path, **corpus):
    folder = beir.write(tmp_path / "beir", queries=beir.jsonl([*beir.QUERIES, *ASKED]))
    section = CorpusConfig(uri=str(folder), name="sample", **corpus)
    return section, prepare_corpus(PrepareConfig(), section, tmp_path / "collection")


def generated(tmp_path, corpus):
    config = GenerateConfig(backend="crop", crop="sentence", min_document_words=3, min_query_words=2)
    stats = generate_queries(config, tmp_path / "collection", tmp_path / "queries", corpus=corpus)
    return stats, {row["query_id"]: row for row in read_queries(tmp_path / "queries")}


def origins(folder):
    return {row["query_id"]: row["origin"] for row in tables.read(tables.QUERIES, folder).to_pylist()}


# --- a log of queries -------------------------------------------------------------------------------------------------


def test_queries_that_nobody_judged_stay_where_they_are_asked_for(tmp_path):
    _, stats = prepared(tmp_path)
    assert (stats.unjudged_queries, stats.logged_queries) == (4, 0)
    _, stats = prepared(tmp_path, queries="log")
    assert (stats.unjudged_queries, stats.logged_queries, stats.train_queries, stats.test_queries) == (0, 4, 2, 1)
    found = origins(tmp_path / "collection")
    assert {name for name, origin in found.items() if origin == "log"} == {"l1", "l2", "l3", "l4"}
    assert (found["q1"], found["q2"]) == ("supervised", "test")


def test_a_smaller_log_is_part_of_a_larger_one(tmp_path):
    drawn = []
    for limit in (1, 2, 3):
        prepared(tmp_path, queries="log", log_queries=limit)
        drawn.append({name for name, origin in origins(tmp_path / "collection").items() if origin == "log"})
    assert [len(each) for each in drawn] == [1, 2, 3] and drawn[0] < drawn[1] < drawn[2]


def test_a_log_alone_needs_no_language_model(tmp_path, monkeypatch):
    corpus, _ = prepared(tmp_path, queries="log")
    stats, queries = generated(tmp_path, corpus)
    assert (stats.queries, stats.logged, stats.logged_dropped, stats.generated) == (2, 2, 2, 0)
    assert {name: row["text"] for name, row in queries.items()} == {
        "l1": "why is granite hard", "l2": "rain clouds",
    }  # fmt: skip
    assert {row["origin"] for row in queries.values()} == {"log"}
    assert {row["source_doc_id"] for row in queries.values()} == {None}
    monkeypatch.setenv(variables.WORKERS, "2")
    monkeypatch.setenv(variables.STORE, str(tmp_path / "store"))
    helped = help_generate(GenerateConfig(backend="crop"), tmp_path / "collection", corpus, worker=1)
    assert (helped.documents, helped.queries) == (0, 0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.txt", b"rain clouds\nRain clouds!\nwhy is granite hard\n\n"),
        ("log.csv", b"day,Query,count\n1,rain clouds,2\n1,why is granite hard,1\n"),
        ("log.tsv", b"search_term\thits\nrain clouds\t9\nwhy is granite hard\t3\n"),
        ("log.jsonl", b'{"query": "rain clouds", "count": 2}\n{"text": "why is granite hard"}\n'),
        ("log.csv.gz", gzip.compress(b"query,count\nrain clouds,2\nwhy is granite hard,1\n", mtime=0)),
        ("log.parquet", None),
    ],
)
def test_a_file_of_queries(tmp_path, name, content):
    if content is None:
        table = pa.table({"query": ["rain clouds", "why is granite hard"], "count": [2, 1]})
        pq.write_table(table, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    _, stats = prepared(tmp_path, queries="log", log=str(tmp_path / name))
    # Those of the collection that nobody judged are none of them.
    assert (stats.logged_queries, stats.unjudged_queries) == (2, 4)
    rows = tables.read(tables.QUERIES, tmp_path / "collection").to_pylist()
    assert {row["text"] for row in rows if row["origin"] == "log"} == {"rain clouds", "why is granite hard"}


def test_what_is_asked_often_is_drawn_often(tmp_path):
    rare = [f"rare number {number},1\n" for number in range(300)]
    often = [f"often number {number},50\n" for number in range(30)]
    (tmp_path / "log.csv").write_text("query,count\n" + "".join([*rare, *often]))
    drawn = []
    for limit in (20, 40):
        prepared(tmp_path, queries="log", log=str(tmp_path / "log.csv"), log_queries=limit)
        rows = tables.read(tables.QUERIES, tmp_path / "collection").to_pylist()
        drawn.append({row["text"] for row in rows if row["origin"] == "log"})
    assert [len(each) for each in drawn] == [20, 40] and drawn[0] < drawn[1]
    # 50 times as likely each, and a tenth as many: five of six that are drawn first.
    assert sum(text.startswith("often") for text in drawn[0]) >= 12


@pytest.mark.parametrize(
    ("name", "content", "code", "facts"),
    [
        ("log.csv", "words,count\nrain,1\n", "collection-column", ("words", "query")),
        ("log.csv", "query,count\nrain,many\n", "collection-row", ("line 2", "many")),
        ("log.jsonl", '{"query": 7}\n', "collection-row", ("line 1", "query")),
        ("log.txt", "\n ?!\n", "log-empty", ()),
        ("log.pdf", "x", "log-form", (".csv",)),
    ],
)
def test_a_file_of_queries_that_cannot_be_used(tmp_path, name, content, code, facts):
    (tmp_path / name).write_text(content)
    with refuses(code, name, *facts):
        prepared(tmp_path, queries="log", log=str(tmp_path / name))


def test_a_log_beside_synthetic_queries(tmp_path):
    corpus, _ = prepared(tmp_path)
    written = generated(tmp_path, corpus)[1]["d2#q0"]["text"]
    # A person asked that too, and it is theirs.
    asked = {"_id": "l5", "text": f" {written.upper()}?"}
    folder = beir.write(tmp_path / "beir", queries=beir.jsonl([*beir.QUERIES, *ASKED, asked]))
    corpus = CorpusConfig(uri=str(folder), name="sample", queries="both")
    prepare_corpus(PrepareConfig(), corpus, tmp_path / "collection")
    stats, queries = generated(tmp_path, corpus)
    by_origin = {
        origin: {name for name, row in queries.items() if row["origin"] == origin} for origin in ("log", "synthetic")
    }
    assert by_origin["log"] == {"l1", "l2", "l5"}
    assert by_origin["synthetic"] == {"d1#q0", "d3#q0", "d4#q0"}
    assert stats.duplicate == 1 and stats.logged == 3 and stats.queries == 6


def test_a_logged_query_is_labelled_with_its_best_hit_and_others(tmp_path):
    corpus, _ = prepared(tmp_path, queries="log")
    generated(tmp_path, corpus)
    stats = retrieve(
        RetrieveConfig(negatives=2, depth=4, test_depth=4, stopwords=""),
        tmp_path / "collection", tmp_path / "queries", tmp_path / "candidates",
    )  # fmt: skip
    assert (stats.train_queries, stats.queries_logged, stats.train_queries_without_positive) == (2, 2, 0)
    pairs = tables.read(tables.PAIRS, tmp_path / "candidates").to_pylist()
    assert {row["role"] for row in pairs} == {"negative"}
    # "why is granite hard" finds d2 first, and d3 by its "is"; "rain clouds" finds d4 alone.
    assert [row["doc_id"] for row in pairs if row["query_id"] == "l1"] == ["d2", "d3"]
    assert [row["doc_id"] for row in pairs if row["query_id"] == "l2"] == ["d4"]


def test_a_plan_counts_the_queries_that_people_asked(tmp_path):
    corpus, _ = prepared(tmp_path, queries="log")
    assert count(corpus, PrepareConfig()).logged == 4
    assert count(replace(corpus, queries="synthetic"), PrepareConfig()).logged == 0
    assert count(replace(corpus, log_queries=3), PrepareConfig()).logged == 3
    (tmp_path / "log.txt").write_text("one\ntwo\n\nthree\n")
    assert count(replace(corpus, log=str(tmp_path / "log.txt")), PrepareConfig()).logged == 3
    targets = [{"uri": corpus.uri, "name": "sample", "queries": "log"}]
    plan = make_plan(profiles.load("demo", {"targets": targets}), "A100", 0.0, by_size_alone("A100"))
    stages = {each.stage: each for each in plan.rows if each.collection == "sample"}
    assert "generate_queries" not in stages and stages["teacher_label"].queries == 4


def test_a_log_without_a_query_of_use_is_refused(tmp_path):
    folder = beir.write(tmp_path / "beir", queries=beir.jsonl([*beir.QUERIES, ASKED[3]]))
    corpus = CorpusConfig(uri=str(folder), name="sample", queries="log")
    prepare_corpus(PrepareConfig(), corpus, tmp_path / "collection")
    with refuses("queries-useless", "sample", "1 leaked"):
        generated(tmp_path, corpus)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"targets": [{"uri": "demo:target/1", "name": "a", "log": "/x/log.csv"}]}, "targets[0].log"),
        ({"targets": [{"uri": "demo:target/1", "name": "a", "log_queries": 5}]}, "targets[0].log_queries"),
        ({"source": {"uri": "demo:source/1", "name": "b", "queries": "log"}}, "source.queries"),
    ],
)
def test_settings_of_a_log_that_do_not_fit(changes, fact):
    with refuses("setting-conflict", fact):
        profiles.load("demo", changes)


# --- soft labels of one's own -----------------------------------------------------------------------------------------

PAIRS = [("hard rock", "Granite is hard.", 5.0), ("hard rock", "Rain falls.", -9.0), ("wet", "Rain falls.", 0.5)]


@pytest.mark.parametrize(
    "lines",
    [
        [{"query": query, "passage": passage, "score": score} for query, passage, score in PAIRS],
        [{"question": query, "answer": passage, "label": score} for query, passage, score in PAIRS],
        [
            {"query": "hard rock", "pos": ["Granite is hard."], "neg": ["Rain falls."], "pos_scores": [5], "neg_scores": [-9]},
            {"query": "wet", "pos": "Rain falls.", "pos_scores": [0.5], "neg": []},
        ],
        [
            {"query": "hard rock", "pos": ["Granite is hard."], "neg": ["Rain falls."], "scores": [5.0, -9.0]},
            {"query": "wet", "neg": ["Rain falls."], "scores": [0.5]},
        ],
    ],
)  # fmt: skip
def test_texts_with_scores(tmp_path, lines):
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    corpus = CorpusConfig(uri=f"soft-labels:{tmp_path / 'own.jsonl'}", name="own")
    stats = prepare_corpus(PrepareConfig(), corpus, tmp_path / "out")
    assert (stats.documents, stats.synthetic_queries, stats.published_labels) == (2, 2, 3)
    texts = {row["doc_id"]: row["text"] for row in tables.read(tables.CORPUS, tmp_path / "out").to_pylist()}
    queries = {row["query_id"]: row["text"] for row in tables.read(tables.QUERIES, tmp_path / "out").to_pylist()}
    labels = tables.read(tables.LABELS, tmp_path / "out").to_pylist()
    found = [(queries[row["query_id"]], texts[row["doc_id"]], row["false_logit"], row["true_logit"]) for row in labels]
    assert found == [(query, passage, -score / 2, score / 2) for query, passage, score in PAIRS]
    assert count(corpus, PrepareConfig()).published == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.jsonl", '{"query_id": "q1", "doc_id": "d2", "score": 3}\n{"qid": "q3", "docid": "d1", "label": -1.5}\n'),
        ("own.tsv", "qid\tdocid\tscore\nq1\td2\t3\nq3\td1\t-1.5\n"),
        ("own.csv", "score,query-id,corpus-id\n3,q1,d2\n-1.5,q3,d1\n"),
        ("own.tsv", "query_id\tdoc_id\tfalse_logit\ttrue_logit\nq1\td2\t-1.5\t1.5\nq3\td1\t0.75\t-0.75\n"),
    ],
)
def test_scores_of_a_collection(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    corpus = CorpusConfig(
        uri=str(beir.write(tmp_path / "beir")), name="sample", labels=f"soft-labels:{tmp_path / name}"
    )
    stats = prepare_corpus(PrepareConfig(), corpus, tmp_path / "out")
    assert stats.published_labels == 2
    assert tables.read(tables.LABELS, tmp_path / "out").to_pylist() == [
        {"query_id": "q1", "doc_id": "d2", "false_logit": -1.5, "true_logit": 1.5},
        {"query_id": "q3", "doc_id": "d1", "false_logit": 0.75, "true_logit": -0.75},
    ]


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        ({"query": "a", "passage": "b"}, ("line 1", "score")),
        ({"query": "a", "score": 1}, ("line 1", "passage")),
        ({"query": "a", "passage": "b", "score": "high"}, ("line 1", "high")),
        ({"query": "a", "passage": "b", "score": True}, ("line 1", "True")),
        ({"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [1]}, ("line 1", "neg_scores")),
        ({"query": "a", "pos": ["b"], "neg": ["c"], "scores": [1]}, ("line 1", "2 scores")),
        ({"query": "a", "pos": [1], "scores": [1]}, ("line 1", "pos")),
    ],
)
def test_rows_without_what_they_need(tmp_path, row, facts):
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n")
    corpus = CorpusConfig(uri=f"soft-labels:{tmp_path / 'own.jsonl'}", name="own")
    with refuses("collection-row", "own.jsonl", *facts):
        prepare_corpus(PrepareConfig(), corpus, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "code", "fact"),
    [
        ("q1\td2\t3\n", "collection-column", "query_id"),
        ("qid\tdocid\n", "collection-column", "'score'"),
        ("qid\tdocid\tscore\nq1\td2\n", "collection-row", "line 2"),
        ("qid\tdocid\tscore\tdéjà\nq1\td2\t3\tx\n", "text-encoding", "first line"),
    ],
)
def test_columns_without_what_they_need(tmp_path, text, code, fact):
    (tmp_path / "own.tsv").write_bytes(text.encode("latin-1"))
    corpus = CorpusConfig(
        uri=str(beir.write(tmp_path / "beir")), name="sample", labels=f"soft-labels:{tmp_path / 'own.tsv'}"
    )
    with refuses(code, "own.tsv", fact):
        prepare_corpus(PrepareConfig(), corpus, tmp_path / "out")
