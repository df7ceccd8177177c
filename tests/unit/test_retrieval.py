"""BM25 against bm25s itself and against published values; ties, samples and their determinism."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from inranker_flow import manifest, schemas
from inranker_flow.config import CorpusConfig, PrepareConfig, RetrieveConfig
from inranker_flow.corpora import default_text, prepare_corpus
from inranker_flow.errors import UserError
from inranker_flow.retrieval import retrieve
from inranker_flow.retrieval.bm25 import BM25
from tests import beir

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def collection(folder, tmp_path, labels="", **config):
    out = tmp_path / f"{folder.name}-collection"
    prepare_corpus(PrepareConfig(**config), CorpusConfig(uri=str(folder), name="sample", labels=labels), out)
    return out


def rows(table, folder):
    return schemas.read(table, folder).to_pylist()


def synthetic(folder, queries, dataset="sample"):
    """A queries artifact as `generate_queries` writes it: (query_id, text, source)."""
    ids, texts, sources = (list(column) for column in zip(*queries, strict=True))
    columns = {"query_id": ids, "text": texts, "origin": ["synthetic"] * len(ids), "source_doc_id": sources}
    schemas.write(schemas.QUERIES, folder / schemas.QUERIES.filename, columns)
    manifest.write_manifest(folder, dataset=dataset, stage="generate_queries")
    return folder


def words(generator, count, vocabulary=400):
    return " ".join(f"w{int(generator.paretovariate(0.4)) % vocabulary}x" for _ in range(count))


# --- BM25 -------------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_bm25s():
    import bm25s
    import Stemmer

    generator = random.Random(3)
    real = [
        "The running foxes' fox ran",
        "s 's a I",
        "",
        "Überraschung naïve café 42 x2",
        "running, running; RUNNER's!",
    ]
    texts = real + [words(generator, generator.randrange(1, 60)) for _ in range(300)]
    queries = ["fox runs running", "w1x w2x w1x w999x", "the of and", "", "café überraschung 42"]
    names = [f"d{i}" for i in range(len(texts))]
    index = BM25.build([(names[:100], texts[:100]), ([], []), (names[100:], texts[100:])], RetrieveConfig())
    options = {"stopwords": "english", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    theirs = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    theirs.index(bm25s.tokenize(texts, **options), show_progress=False)
    given = [names.index(doc_id) for doc_id in index.doc_ids.to_pylist()]
    for query in queries:
        [tokens] = bm25s.tokenize([query], return_ids=False, **options)
        known = theirs.get_tokens_ids([token for token in tokens if token])
        expected = theirs.get_scores_from_ids(known) if known else np.zeros(len(texts))
        np.testing.assert_array_equal(index.scores(query), expected[given], "not even the last bit differs")


def test_words_that_nobody_has_find_nothing():
    index = BM25.build([(["a", "b"], ["granite is hard", "rain falls"])], RetrieveConfig())
    for query in ("whale", "", "is the", "'s s", "\u0085"):
        assert len(index.search(query, 10)[0]) == 0
    assert index.search("hard hard whale", 10)[0].tolist() == ["a"]
    empty = BM25.build([(["a", "b"], ["", "the"])], RetrieveConfig())
    assert len(empty.search("the rain", 10)[0]) == 0


@pytest.mark.parametrize("depth", [1, 3, 7, 8, 50])
def test_ties_are_ordered_by_doc_id_also_at_the_cut(depth):
    generator = random.Random(depth)
    texts = [f"rock {'stone ' * (i % 3)}" for i in range(40)]  # three groups of equal scores
    names = [f"d{i}" for i in generator.sample(range(1000), 40)]
    index = BM25.build([(names, texts)], RetrieveConfig())
    found, scores = index.search("rock", depth)
    full = dict(zip(index.doc_ids.to_pylist(), index.scores("rock"), strict=True))
    expected = sorted(range(40), key=lambda at: (-full[names[at]], names[at]))[:depth]
    assert found.tolist() == [names[at] for at in expected]
    assert len(set(scores.tolist())) == min(3, -(-depth // 13) if depth < 40 else 3)


def test_settings_that_do_not_exist(tmp_path):
    for values, message in (
        ({"stopwords": "klingon"}, "no list 'klingon'"),
        ({"stemmer": "klingon"}, "not one of .*english"),
    ):
        with pytest.raises(UserError, match=message):
            retrieve(
                RetrieveConfig(**values), collection(beir.write(tmp_path / "beir"), tmp_path), None, tmp_path / "out"
            )
    plain = BM25.build([(["a", "b"], ["The Running a", "x"])], RetrieveConfig(stopwords="", stemmer=""))
    assert plain.search("the", 10)[0].tolist() == ["a"] and not len(plain.search("run", 10)[0])


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not beside the checkout")
@pytest.mark.parametrize(
    ("name", "k1", "b", "ndcg"), [("adi", 0.9, 0.4, 0.4802), ("adi", 1.2, 0.75, 0.4832), ("cisi", 0.9, 0.4, 0.3725)]
)
def test_published_quality(tmp_path, name, k1, b, ndcg):
    import ir_measures

    sample = collection(DATA / "collections" / name, tmp_path)
    retrieve(RetrieveConfig(k1=k1, b=b), sample, None, tmp_path / "out")
    run = ir_measures.read_trec_run(str(tmp_path / "out" / "run.trec"))
    qrels = schemas.read(schemas.QRELS, sample).to_pandas()
    measured = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
    assert measured == pytest.approx(ndcg, abs=0.0005)


# --- the stage --------------------------------------------------------------------------------------------------------


def test_supervised_pairs_and_run(tmp_path):
    sample = collection(beir.write(tmp_path / "beir", train=beir.tsv([*beir.TRAIN, ("q1", "d1", 0)])), tmp_path)
    stats = retrieve(RetrieveConfig(negatives=2), sample, None, tmp_path / "out")
    pairs = {(row["query_id"], row["doc_id"], row["role"]) for row in rows(schemas.PAIRS, tmp_path / "out")}
    assert {("q1", "d2", "positive"), ("q3", "d1", "positive")} <= pairs
    assert (stats.train_queries, stats.positives, stats.pairs) == (2, 2, len(pairs))
    assert stats.negatives + stats.negatives_missing == 4
    assert {row["query_id"] for row in rows(schemas.QUERIES, tmp_path / "out")} == {"q1", "q3"}
    run = rows(schemas.RUN, tmp_path / "out")
    assert [(row["query_id"], row["doc_id"], row["rank"]) for row in run] == [("q2", "d3", 1)]  # no other shares a word
    assert (tmp_path / "out" / "run.trec").read_text() == f"q2 Q0 d3 1 {run[0]['score']:.6f} bm25\n"
    assert (stats.test_queries, stats.test_queries_without_hits, stats.run_rows) == (1, 0, 1)
    assert manifest.read_manifest(tmp_path / "out").dataset == "sample"


def big(tmp_path, shuffled=False):
    generator = random.Random(11)
    documents = [{"_id": f"d{i}", "title": "", "text": words(generator, 30)} for i in range(400)]
    queries = [(f"g{i}", words(generator, 4), f"d{generator.randrange(400)}") for i in range(60)]
    judged = [{"_id": f"t{i}", "text": words(generator, 4)} for i in range(20)]
    if shuffled:
        for each in (documents, queries, judged):
            random.Random(1).shuffle(each)
    folder = beir.write(
        tmp_path / f"big{shuffled}", corpus=beir.jsonl(documents), queries=beir.jsonl(judged), train=None,
        test=beir.tsv([(row["_id"], "d1", 1) for row in judged]),
    )  # fmt: skip
    return collection(folder, tmp_path), synthetic(tmp_path / f"queries{shuffled}", queries)


def test_negatives_come_from_the_top_and_never_the_source(tmp_path):
    sample, queries = big(tmp_path)
    config = RetrieveConfig(depth=50, negatives=9, test_depth=20, seed=4)
    stats = retrieve(config, sample, queries, tmp_path / "out")
    assert (stats.train_queries, stats.sources, stats.positives, stats.test_queries) == (60, 60, 0, 20)
    sources = {row["query_id"]: (row["text"], row["source_doc_id"]) for row in rows(schemas.QUERIES, queries)}
    corpus = rows(schemas.CORPUS, sample)
    texts = [default_text(row["title"], row["text"]) for row in corpus]
    index = BM25.build([([row["doc_id"] for row in corpus], texts)], RetrieveConfig())
    by_query: dict[str, list[tuple[str, str]]] = {}
    for row in rows(schemas.PAIRS, tmp_path / "out"):
        by_query.setdefault(row["query_id"], []).append((row["doc_id"], row["role"]))
    ranks = Counter()
    for query_id, pairs in by_query.items():
        text, source = sources[query_id]
        assert pairs[0] == (source, "source") and {role for _, role in pairs[1:]} <= {"negative"}
        top = index.search(text, 50)[0].tolist()
        sampled = [doc_id for doc_id, _ in pairs[1:]]
        assert len(set(sampled)) == len(sampled) and set(sampled) <= set(top) - {source}
        assert len(sampled) == min(9, len(set(top) - {source}))
        ranks.update(top.index(doc_id) // 10 for doc_id in sampled if len(top) == 50)
    assert min(ranks.values()) > max(ranks.values()) / 2, "all depths are drawn from alike"
    run = rows(schemas.RUN, tmp_path / "out")
    assert max(row["rank"] for row in run) == 20 and len(run) == stats.run_rows


def test_result_depends_on_seed_and_content_not_on_order(tmp_path):
    config = RetrieveConfig(depth=50, negatives=5, test_depth=20, seed=4)

    def result(shuffled, **changed):
        out = tmp_path / "out"
        sample, queries = big(tmp_path, shuffled)
        retrieve(RetrieveConfig(**{**vars(config), **changed}), sample, queries, out)
        return [{tuple(row.values()) for row in rows(table, out)} for table in (schemas.PAIRS, schemas.RUN)]

    first = result(False)
    assert result(False) == first and result(True) == first
    other = result(False, seed=5)
    assert other[0] != first[0] and other[1] == first[1]
    fewer = result(False, negatives=2)
    assert fewer[0] < first[0], "a smaller number is a part of the larger sample"
    assert all(role == "source" for _, _, role in result(False, negatives=0)[0])


def test_fewer_hits_than_negatives(tmp_path):
    sample = collection(beir.write(tmp_path / "beir"), tmp_path)
    queries = synthetic(tmp_path / "queries", [("g1", "rock whale", "d2"), ("g2", "nothing known", "d4")])
    stats = retrieve(RetrieveConfig(negatives=9), sample, queries, tmp_path / "out")
    pairs = [tuple(row.values()) for row in rows(schemas.PAIRS, tmp_path / "out")]
    assert pairs == [("g1", "d2", "source"), ("g1", "d3", "negative"), ("g2", "d4", "source")]
    assert (stats.negatives, stats.negatives_missing) == (1, 17)


def test_nothing_to_search_builds_no_index(tmp_path, monkeypatch):
    sample = collection(beir.write(tmp_path / "beir", queries=None, train=None, test=None), tmp_path)
    monkeypatch.setattr("inranker_flow.retrieval.index.build_in", None)  # would fail if it were built
    stats = retrieve(RetrieveConfig(), sample, None, tmp_path / "out")
    assert (stats.documents, stats.train_queries, stats.test_queries, stats.pairs, stats.run_rows) == (4, 0, 0, 0, 0)
    for table in (schemas.QUERIES, schemas.PAIRS, schemas.RUN):
        assert rows(table, tmp_path / "out") == []
    assert (tmp_path / "out" / "run.trec").read_bytes() == b""


def test_queries_with_published_labels_get_no_pairs(tmp_path):
    (tmp_path / "labels.tsv").write_text("1\t-1\tq1\td2\n")
    folder = beir.write(tmp_path / "beir")
    sample = collection(folder, tmp_path, labels=f"inranker-msmarco:{tmp_path / 'labels.tsv'}")
    stats = retrieve(RetrieveConfig(), sample, None, tmp_path / "out")
    assert (stats.train_queries, stats.train_queries_published, stats.pairs) == (0, 2, 0)
    assert stats.test_queries == 1, "the test queries are searched all the same"
    queries = synthetic(tmp_path / "queries", [("q1", "rock whale", "d2"), ("g2", "rock whale", "d2")])
    stats = retrieve(RetrieveConfig(), sample, queries, tmp_path / "out2")
    assert (stats.train_queries, stats.train_queries_published) == (1, 1)
    assert {row["query_id"] for row in rows(schemas.PAIRS, tmp_path / "out2")} == {"g2"}


def test_queries_without_anything_relevant_get_no_pairs(tmp_path):
    sample = collection(beir.write(tmp_path / "beir", train=beir.tsv([("q1", "d2", 0), ("q3", "d1", 1)])), tmp_path)
    stats = retrieve(RetrieveConfig(), sample, None, tmp_path / "out")
    assert (stats.train_queries, stats.train_queries_without_positive) == (1, 1)
    assert [row["query_id"] for row in rows(schemas.QUERIES, tmp_path / "out")] == ["q3"]


def test_queries_of_another_collection_are_refused(tmp_path):
    sample = collection(beir.write(tmp_path / "beir"), tmp_path)
    other = synthetic(tmp_path / "other", [("g1", "rock", "d2")], dataset="elsewhere")
    with pytest.raises(UserError, match="holds queries for 'elsewhere', but the collection is 'sample'"):
        retrieve(RetrieveConfig(), sample, other, tmp_path / "out")
    stale = synthetic(tmp_path / "stale", [("g1", "rock", "d2"), ("g2", "sea", "gone")])
    with pytest.raises(UserError, match=r"query 'g2' belongs to the passage 'gone', which .* lacks \(1 such"):
        retrieve(RetrieveConfig(), sample, stale, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
