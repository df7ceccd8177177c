"""BM25 against bm25s itself, brute force and published values; ties, samples and their determinism; killed runs."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inranker_flow import cpus
from inranker_flow.artifacts import manifest, tables
from inranker_flow.artifacts.hashing import priorities
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.corpora.passage import default_text
from inranker_flow.errors import UserError
from inranker_flow.retrieval import bm25
from inranker_flow.retrieval import index as indexes
from inranker_flow.retrieval.bm25 import BM25
from inranker_flow.retrieval.first_stages import sparse
from inranker_flow.retrieval.negative_sampling import random_sample
from inranker_flow.retrieval.searchers import Searchers
from inranker_flow.stages import retrieve as stage
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.retrieve import retrieve
from tests import beir, languages, models
from tests.refusals import refuses

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def collection(folder, tmp_path, labels="", **config):
    out = tmp_path / f"{folder.name}-collection"
    prepare_corpus(PrepareConfig(**config), CorpusConfig(uri=str(folder), name="sample", labels=labels), out)
    return out


def rows(table, folder):
    return tables.read(table, folder).to_pylist()


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


WORDS = st.lists(st.sampled_from(["ash", "bay", "cod", "dew", "elm", "fig"]), max_size=8).map(" ".join)


@settings(deadline=None, max_examples=150)
@given(
    texts=st.lists(WORDS, max_size=25),
    query=WORDS,
    depth=st.integers(1, 8),
    block=st.integers(1, 30),
    b=st.sampled_from([0.0, 0.4, 1.0]),
    lucene=st.booleans(),
    by_posting=st.booleans(),
    seed=st.randoms(use_true_random=False),
)
def test_search_in_blocks_finds_what_brute_force_finds(texts, query, depth, block, b, lucene, by_posting, seed):
    config = RetrieveConfig(b=b, stopwords="", stemmer="", lucene_lengths=lucene)
    names = [f"d{i}" for i in seed.sample(range(100), len(texts))]
    words = [text.split() for text in texts]
    count = sum(map(bool, words)) if lucene else len(words)
    mean = sum(map(len, words)) / count if any(words) else 1
    brute = {}
    for name, held in zip(names, words, strict=True):
        score = 0.0
        for word in query.split():
            having = sum(word in each for each in words)
            norm = config.k1 * (1 - b + b * len(held) / mean)  # all are shorter than 24: exact to Lucene too
            if word in held:
                score += (
                    np.log(1 + (count - having + 0.5) / (having + 0.5)) * held.count(word) / (held.count(word) + norm)
                )
        brute[name] = score
    index = indexes.build([(names[:7], texts[:7]), (names[7:], texts[7:])], config)
    whole, cut = BM25(index, config), BM25(index, config, block=block)
    with pytest.MonkeyPatch.context() as patch:
        if by_posting:  # as in collections that are large
            patch.setattr(bm25, "_POSTING", 0)
            patch.setattr(bm25, "_LIST", 0)
        found, scores = whole.search(query, depth)
        in_blocks = cut.search(query, depth)
    np.testing.assert_allclose(scores, [brute[name] for name in found], rtol=1e-5)
    order = dict(zip(index.doc_ids.to_pylist(), whole.scores(query).tolist(), strict=True))
    expected = sorted((name for name in names if order[name] > 0), key=lambda name: (-order[name], name))
    assert found.tolist() == expected[:depth] and len(expected) == sum(score > 0 for score in brute.values())
    np.testing.assert_array_equal(cut.scores(query), whole.scores(query))
    assert [part.tolist() for part in in_blocks] == [found.tolist(), scores.tolist()]


@pytest.mark.parametrize("block", [2**20, 9_000])
def test_a_large_collection_is_not_looked_at_as_a_whole(block):
    draw = np.random.default_rng(3)
    rows = np.minimum(draw.zipf(1.3, (50_000, 5)), 3000)
    made = [[f"d{i:05}" for i in range(len(rows))], [" ".join(f"w{each}" for each in row) for row in rows.tolist()]]
    config = RetrieveConfig(stopwords="", stemmer="")
    engine = BM25(indexes.build([tuple(made)], config), config, block=block)
    counts = set()
    for query in ("w1 w9 w40", "w40 w1 w2", "w300 w2 w300 w40", "w1 w2", "w2999", "w1 " * 70 + "w50"):
        terms, _ = engine._analyser([query])
        floors, tops = engine._bounds(40)
        decisive = engine._decisive(terms, tops[terms], floors[terms].max())
        counts.add(min(len(decisive), 1) + (0 < len(decisive) < len(terms)))
        scores = engine.scores(query)
        expected = np.lexsort((np.arange(len(scores)), -scores))[:40]
        [(places, found)] = engine.find([query], 40)
        expected = expected[scores[expected] > 0]
        assert places.tolist() == expected.tolist() and found.tobytes() == scores[expected].tobytes(), query
    assert counts == {0, 1, 2}, "all passages, all that have a term, those that have one of some terms"


def test_many_queries_at_once_find_what_each_finds_alone():
    generator = random.Random(5)
    names, texts = [f"d{i}" for i in range(3000)], [words(generator, 20) for _ in range(3000)]
    index = BM25.build([(names, texts)], RetrieveConfig())
    queries = [words(generator, generator.randrange(0, 6)) for _ in range(40)]
    for query, (places, scores) in zip(queries, index.find(queries, 25), strict=True):
        alone = index.search(query, 25)
        assert index.doc_ids.take(places).to_pylist() == alone[0].tolist() and scores.tolist() == alone[1].tolist()
    assert index.find([], 25) == []


def long_to_int4(value: int) -> int:
    """Lucene's `SmallFloat.longToInt4`, line by line."""
    bits = value.bit_length()
    if bits < 4:
        return value
    shift = bits - 4
    return ((value >> shift) & 0x07) | ((shift + 1) << 3)


def int4_to_long(code: int) -> int:
    """Lucene's `SmallFloat.int4ToLong`."""
    bits, shift = code & 0x07, (code >> 3) - 1
    return bits if shift == -1 else (bits | 0x08) << shift


def test_lucene_lengths_are_those_of_its_table():
    free = 255 - long_to_int4(2**31 - 1)
    table = [code if code < free else free + int4_to_long(code - free) for code in range(256)]
    assert free == 24 and table[:42] == [*range(40), 40, 42] and table[255] == 2_013_265_944
    lengths = np.array([*range(70_000), 10**6, 2**31 - 1])
    # A length is kept as the greatest of the table that does not exceed it.
    expected = np.array(table)[np.searchsorted(table, lengths, side="right") - 1]
    np.testing.assert_array_equal(indexes.lucene_length(lengths), expected)
    for length in (0, 23, 24, 39, 40, 41, 43, 1000):
        code = length if length < free else free + long_to_int4(length - free)
        assert indexes.lucene_length(np.array([length]))[0] == table[code]


def test_lucene_lengths_make_passages_alike_and_leave_the_empty_ones_out():
    texts = ["rock " + "stone " * 42, "rock " + "stone " * 41, "", "sea"]
    passages = [(["a", "b", "c", "d"], texts)]
    exact = BM25.build(passages, RetrieveConfig()).scores("rock")
    lucene = BM25.build(passages, RetrieveConfig(lucene_lengths=True)).scores("rock")
    assert exact[0] != exact[1] and lucene[0] == lucene[1], "43 and 42 words are the same byte"
    mean = (43 + 42 + 1) / 3
    norm = 0.9 * (0.6 + 0.4 * 42 / mean)
    assert lucene[0] == pytest.approx(np.log(1 + (3 - 2 + 0.5) / 2.5) / (1 + norm), rel=1e-6)


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
    ("name", "k1", "b", "ndcg"),
    [
        ("adi", 0.9, 0.4, 0.4802), ("adi", 1.2, 0.75, 0.4832),
        ("noveleval", 0.9, 0.4, 0.6815), ("noveleval", 1.2, 0.75, 0.6818),
        ("medline", 0.9, 0.4, 0.6710), ("medline", 1.2, 0.75, 0.6986),
        ("cisi", 0.9, 0.4, 0.3725), ("cisi", 1.2, 0.75, 0.3957),
        ("liveqa-med", 0.9, 0.4, 0.4786), ("cacm", 0.9, 0.4, 0.5043),
        ("dbpedia-entity-5k", 0.9, 0.4, 0.3518), ("vaswani", 0.9, 0.4, 0.4449),
    ],
)  # fmt: skip
def test_published_quality(tmp_path, name, k1, b, ndcg):
    import ir_measures

    sample = collection(DATA / "collections" / name, tmp_path)
    retrieve(RetrieveConfig(k1=k1, b=b), sample, None, tmp_path / "out")
    run = ir_measures.read_trec_run(str(tmp_path / "out" / "run.trec"))
    qrels = tables.read(tables.QRELS, sample).to_pandas()
    measured = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
    assert measured == pytest.approx(ndcg, abs=0.0005)


# --- the index on disk, and processes that share it -------------------------------------------------------------------


def test_an_index_on_disk_is_the_one_in_memory(tmp_path):
    generator = random.Random(6)
    names, texts = [f"d{i}" for i in range(500)], [words(generator, 20) for _ in range(500)]
    for number, passages in enumerate([[(names, texts)], [], [(["a", "b"], ["", "the"])]]):
        config = RetrieveConfig()
        indexes.build_in(tmp_path / str(number), passages, config)
        stored, built = indexes.load(tmp_path / str(number), config), indexes.build(passages, config)
        for name in ("starts", "passages", "impacts"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(built, name))
        assert (stored.doc_ids, list(stored.terms)) == (built.doc_ids, list(built.terms))
        assert number != 0 or isinstance(stored.impacts, np.memmap), "it is mapped, not read"
        for query in ("w1x w7x", "nothing", ""):
            searched = [BM25(each, config).search(query, 9) for each in (stored, built)]
            assert [part.tolist() for part in searched[0]] == [part.tolist() for part in searched[1]]
    with refuses("index-mismatch"):
        indexes.load(tmp_path / "0", RetrieveConfig(k1=1.2))


def test_more_passages_than_a_chunk_holds(monkeypatch):
    monkeypatch.setattr(indexes, "_CHUNK", 7)
    generator = random.Random(7)
    names, texts = [f"d{i}" for i in range(50)], [words(generator, 12, 30) for _ in range(50)]
    small = indexes.build([(names[:20], texts[:20]), (names[20:], texts[20:])], RetrieveConfig())
    monkeypatch.undo()
    whole = indexes.build([(names, texts)], RetrieveConfig())
    for name in ("starts", "passages", "impacts"):
        np.testing.assert_array_equal(getattr(small, name), getattr(whole, name))


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with refuses("disk-full"):
        indexes.build_in(tmp_path / "index", [(["a"], ["rock"])], RetrieveConfig())
    assert list(tmp_path.iterdir()) == []


def die(bm25, task):
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return bm25.search(f"w{task}x", 5)[0].tolist(), os.getpid()


def test_processes_answer_in_order_and_a_killed_one_is_named(tmp_path):
    generator = random.Random(8)
    names, texts = [f"d{i}" for i in range(200)], [words(generator, 20) for _ in range(200)]
    indexes.build_in(tmp_path / "index", [(names, texts)], RetrieveConfig())
    tasks = [each for each in range(40) if each != 3]
    with Searchers(tmp_path / "index", RetrieveConfig(), 1) as one:
        expected = [found for found, _ in one.map(die, tasks)]
    with Searchers(tmp_path / "index", RetrieveConfig(), 2) as two:
        answers = list(two.map(die, tasks))
        assert [found for found, _ in answers] == expected
        assert os.getpid() not in {process for _, process in answers}
        with refuses("process-died"):
            list(two.map(die, range(40)))


def test_cpus_are_those_that_the_container_pays_for(tmp_path):
    have = len(os.sched_getaffinity(0))
    assert cpus.available(tmp_path) == have
    for text, expected in (("max 100000", have), ("100000 100000", 1), ("50000 100000", 1), ("99900000 100000", have)):
        (tmp_path / "cpu.max").write_text(f"{text}\n")
        assert cpus.available(tmp_path) == expected
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in (("-1", have), ("100000", 1)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert cpus.available(tmp_path) == expected


# --- samples ----------------------------------------------------------------------------------------------------------


def sampled(names, items, wanted, seed=3):
    """Name -> hashes of the items that are drawn, in their order."""
    sizes = np.array([len(each) for each in items])
    every = np.concatenate(items).astype(np.uint64)
    which, places = random_sample(seed, names, every, sizes, np.array(wanted))
    return {name: every[places[which == number]].tolist() for number, name in enumerate(names)}


def test_samples_of_many_queries_are_those_of_each():
    generator = random.Random(9)
    names = [f"q{i}" for i in range(400)]
    items = [np.array(generator.sample(range(2**40), generator.choice([0, 1, 5, 50, 1000]))) for _ in names]
    wanted = [generator.choice([0, 1, 9, 60, 1200]) for _ in names]
    for (name, drawn), hits, count in zip(sampled(names, items, wanted).items(), items, wanted, strict=True):
        assert len(set(drawn)) == len(drawn) == min(count, len(hits)) and set(drawn) <= set(hits.tolist())
        everything = sampled([name], [hits], [len(hits)])[name]
        assert drawn == everything[:count], "a smaller sample is the beginning of a larger one"
        assert sampled([name], [hits[::-1]], [count])[name] == drawn, "order is no matter"


def test_an_item_that_comes_or_goes_changes_a_sample_by_itself_alone():
    items = np.arange(1000, dtype=np.uint64) * 7919
    before = sampled(["q"], [items], [9])["q"]
    assert sampled(["q"], [items[~np.isin(items, before[3:4])]], [9])["q"][:8] == before[:3] + before[4:]
    after = set(sampled(["q"], [np.concatenate([items[::-1], [5]])], [9])["q"])
    assert len(after & set(before)) >= 8
    assert sampled(["q"], [items], [9], seed=4)["q"] != before != sampled(["p"], [items], [9])["p"]


def test_every_item_is_drawn_alike():
    names = [f"q{i}" for i in range(20_000)]
    marks = priorities(0, [f"d{i}" for i in range(50)])
    sizes, wanted = np.full(20_000, 50), np.full(20_000, 5)
    which, places = random_sample(0, names, np.tile(marks, 20_000), sizes, wanted)
    drawn = np.bincount(places % 50, minlength=50)
    assert len(which) == 100_000 and ((drawn - 2000) ** 2 / 2000).sum() < 100, "chi-squared of 49 degrees of freedom"


# --- the stage --------------------------------------------------------------------------------------------------------


def test_supervised_pairs_and_run(tmp_path):
    sample = collection(beir.write(tmp_path / "beir", train=beir.tsv([*beir.TRAIN, ("q1", "d1", 0)])), tmp_path)
    stats = retrieve(RetrieveConfig(negatives=2), sample, None, tmp_path / "out")
    pairs = {(row["query_id"], row["doc_id"], row["role"]) for row in rows(tables.PAIRS, tmp_path / "out")}
    assert {("q1", "d2", "positive"), ("q3", "d1", "positive")} <= pairs
    assert (stats.train_queries, stats.positives, stats.pairs) == (2, 2, len(pairs))
    assert stats.negatives + stats.negatives_missing == 4
    assert {row["query_id"] for row in rows(tables.QUERIES, tmp_path / "out")} == {"q1", "q3"}
    run = rows(tables.RUN, tmp_path / "out")
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
    return collection(folder, tmp_path), models.synthetic(tmp_path / f"queries{shuffled}", queries, "sample")


def test_negatives_come_from_the_top_and_never_the_source(tmp_path):
    sample, queries = big(tmp_path)
    config = RetrieveConfig(depth=50, negatives=9, test_depth=20, seed=4)
    stats = retrieve(config, sample, queries, tmp_path / "out")
    assert (stats.train_queries, stats.sources, stats.positives, stats.test_queries) == (60, 60, 0, 20)
    sources = {row["query_id"]: (row["text"], row["source_doc_id"]) for row in rows(tables.QUERIES, queries)}
    corpus = rows(tables.CORPUS, sample)
    texts = [default_text(row["title"], row["text"]) for row in corpus]
    index = BM25.build([([row["doc_id"] for row in corpus], texts)], RetrieveConfig())
    by_query: dict[str, list[tuple[str, str]]] = {}
    for row in rows(tables.PAIRS, tmp_path / "out"):
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
    run = rows(tables.RUN, tmp_path / "out")
    assert max(row["rank"] for row in run) == 20 and len(run) == stats.run_rows


def test_result_depends_on_seed_and_content_not_on_order(tmp_path):
    config = RetrieveConfig(depth=50, negatives=5, test_depth=20, seed=4)

    def result(shuffled, **changed):
        out = tmp_path / "out"
        sample, queries = big(tmp_path, shuffled)
        retrieve(RetrieveConfig(**{**vars(config), **changed}), sample, queries, out)
        return [{tuple(row.values()) for row in rows(table, out)} for table in (tables.PAIRS, tables.RUN)]

    first = result(False)
    assert result(False) == first and result(True) == first
    other = result(False, seed=5)
    assert other[0] != first[0] and other[1] == first[1]
    fewer = result(False, negatives=2)
    assert fewer[0] < first[0], "a smaller number is a part of the larger sample"
    assert all(role == "source" for _, _, role in result(False, negatives=0)[0])


def test_the_result_does_not_depend_on_processes_or_batches(tmp_path, monkeypatch):
    sample, queries = big(tmp_path)
    config = RetrieveConfig(depth=50, negatives=5, test_depth=20)

    def result():
        stats = retrieve(config, sample, queries, tmp_path / "out")
        return [rows(table, tmp_path / "out") for table in (tables.PAIRS, tables.RUN)], stats.pairs

    first = result()
    monkeypatch.setattr(stage, "QUERIES", 7)
    assert result() == first
    monkeypatch.setattr(sparse, "PARALLEL_FROM", 0)
    monkeypatch.setattr(cpus, "available", lambda: 2)
    assert result() == first


def test_a_killed_run_finds_its_index_again(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    sample, queries = big(tmp_path)
    config = RetrieveConfig(depth=50)
    built = []
    build_in = indexes.build_in
    monkeypatch.setattr(indexes, "build_in", lambda *given: (built.append(given), build_in(*given)))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stage, "draw", killed)
        retrieve(config, sample, queries, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists() and len(built) == 1
    # What only the search depends on may change; what the index depends on may not.
    retrieve(RetrieveConfig(depth=20), sample, queries, tmp_path / "again")
    assert len(built) == 1 and not list((tmp_path / "scratch" / "retrieve").iterdir()), "used, then removed"
    retrieve(config, sample, queries, tmp_path / "out")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stage, "draw", killed)
        retrieve(config, sample, queries, tmp_path / "killed")
    retrieve(RetrieveConfig(depth=50, k1=1.2), sample, queries, tmp_path / "other")
    assert len(built) == 4, "another k1 is another index"


def test_fewer_hits_than_negatives(tmp_path):
    sample = collection(beir.write(tmp_path / "beir"), tmp_path)
    queries = models.synthetic(
        tmp_path / "queries", [("g1", "rock whale", "d2"), ("g2", "nothing known", "d4")], "sample"
    )
    stats = retrieve(RetrieveConfig(negatives=9), sample, queries, tmp_path / "out")
    pairs = [tuple(row.values()) for row in rows(tables.PAIRS, tmp_path / "out")]
    assert pairs == [("g1", "d2", "source"), ("g1", "d3", "negative"), ("g2", "d4", "source")]
    assert (stats.negatives, stats.negatives_missing) == (1, 17)


def test_nothing_to_search_builds_no_index(tmp_path, monkeypatch):
    sample = collection(beir.write(tmp_path / "beir", queries=None, train=None, test=None), tmp_path)
    monkeypatch.setattr("inranker_flow.retrieval.index.build_in", None)  # would fail if it were built
    stats = retrieve(RetrieveConfig(), sample, None, tmp_path / "out")
    assert (stats.documents, stats.train_queries, stats.test_queries, stats.pairs, stats.run_rows) == (4, 0, 0, 0, 0)
    for table in (tables.QUERIES, tables.PAIRS, tables.RUN):
        assert rows(table, tmp_path / "out") == []
    assert (tmp_path / "out" / "run.trec").read_bytes() == b""


def test_queries_with_published_labels_get_no_pairs(tmp_path):
    (tmp_path / "labels.tsv").write_text("1\t-1\tq1\td2\n")
    folder = beir.write(tmp_path / "beir")
    sample = collection(folder, tmp_path, labels=f"inranker-msmarco:{tmp_path / 'labels.tsv'}")
    stats = retrieve(RetrieveConfig(), sample, None, tmp_path / "out")
    assert (stats.train_queries, stats.train_queries_published, stats.pairs) == (0, 2, 0)
    assert stats.test_queries == 1, "the test queries are searched all the same"
    queries = models.synthetic(tmp_path / "queries", [("q1", "rock whale", "d2"), ("g2", "rock whale", "d2")], "sample")
    stats = retrieve(RetrieveConfig(), sample, queries, tmp_path / "out2")
    assert (stats.train_queries, stats.train_queries_published) == (1, 1)
    assert {row["query_id"] for row in rows(tables.PAIRS, tmp_path / "out2")} == {"g2"}


def test_queries_without_anything_relevant_get_no_pairs(tmp_path):
    sample = collection(beir.write(tmp_path / "beir", train=beir.tsv([("q1", "d2", 0), ("q3", "d1", 1)])), tmp_path)
    stats = retrieve(RetrieveConfig(), sample, None, tmp_path / "out")
    assert (stats.train_queries, stats.train_queries_without_positive) == (1, 1)
    assert [row["query_id"] for row in rows(tables.QUERIES, tmp_path / "out")] == ["q3"]


def test_queries_of_another_collection_are_refused(tmp_path):
    sample = collection(beir.write(tmp_path / "beir"), tmp_path)
    other = models.synthetic(tmp_path / "other", [("g1", "rock", "d2")], "elsewhere")
    with pytest.raises(UserError, match="holds queries for 'elsewhere', but the collection is 'sample'"):
        retrieve(RetrieveConfig(), sample, other, tmp_path / "out")
    stale = models.synthetic(tmp_path / "stale", [("g1", "rock", "d2"), ("g2", "sea", "gone")], "sample")
    with pytest.raises(UserError, match=r"query 'g2' belongs to the passage 'gone', which .* lacks \(1 such"):
        retrieve(RetrieveConfig(), sample, stale, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


# --- queries that find nothing ----------------------------------------------------------------------------------------


PASSAGES, FOUND = languages.sample("portuguese").passages, languages.sample("portuguese").queries
VAIN = languages.sample("russian").queries


def asking(tmp_path, train, test, passages=PASSAGES):
    """A collection whose queries are given; each passage is judged for the queries in turn."""
    documents = [{"_id": f"d{i}", "text": text} for i, text in enumerate(passages)]
    queries = [{"_id": f"r{i}", "text": text} for i, text in enumerate(train)]
    queries += [{"_id": f"t{i}", "text": text} for i, text in enumerate(test)]
    judged = {
        kind: beir.tsv([(f"{kind}{i}", f"d{i}", 1) for i in range(len(texts))])
        for kind, texts in (("r", train), ("t", test))
    }
    files = {"corpus": beir.jsonl(documents), "queries": beir.jsonl(queries), "train": judged["r"], "test": judged["t"]}
    return collection(beir.write(tmp_path / "asked", **files), tmp_path)


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        (
            FOUND[:10],
            VAIN[:10],
            r"10 of 10 test queries \(100%\) find nothing, such as 'река: снабжение питьевая вода'",
        ),
        (VAIN[:10], FOUND[:10], r"10 of 10 training queries \(100%\) find nothing"),
        (FOUND[:10], VAIN[:6] + FOUND[:4], r"6 of 10 test queries \(60%\) find nothing"),
        (FOUND[:9], ["?", "...", "o", "estação"], r"3 of 4 test queries \(75%\) find nothing, such as '\?'"),
    ],
)
def test_retrieve_does_not_go_on_where_most_queries_find_nothing(tmp_path, monkeypatch, train, test, told):
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    sample = asking(tmp_path, train, test)
    with pytest.raises(UserError, match=told) as refused:
        retrieve(RetrieveConfig(), sample, None, tmp_path / "out")
    text = str(refused.value)
    assert "\n" not in text and "stemmer 'english'" in text and "Then set `language`" in text and str(sample) in text
    assert not (tmp_path / "out" / "manifest.json").exists() and not list((tmp_path / "scratch").rglob("*.npy"))
    stats = retrieve(RetrieveConfig(max_without_hits=1), sample, None, tmp_path / "out")
    assert stats.test_queries == len(test)


def test_retrieve_goes_on_where_half_of_the_queries_find_something(tmp_path):
    stats = retrieve(
        RetrieveConfig(), asking(tmp_path, FOUND[:8] + VAIN[:8], VAIN[:5] + FOUND[:5]), None, tmp_path / "out"
    )
    assert (stats.test_queries, stats.test_queries_without_hits) == (10, 5)


@pytest.mark.parametrize("language", languages.NAMES)
def test_the_stage_finds_passages_in_every_language(tmp_path, language):
    given = languages.sample(language)
    sample = asking(tmp_path, given.queries, given.queries, given.passages)
    stats = retrieve(RetrieveConfig(negatives=3), sample, None, tmp_path / "out", language=language)
    assert stats.test_queries_without_hits == stats.negatives_missing == 0
    first = [row["doc_id"] for row in rows(tables.RUN, tmp_path / "out") if row["rank"] == 1]
    assert first == [f"d{i}" for i in range(len(given.passages))]
    drawn = manifest.read_manifest(tmp_path / "out").details["drawn"]
    assert drawn["stemmer"] in (language, "") and "max_without_hits" not in drawn


def test_synthetic_queries_that_find_nothing_are_named_by_their_folder(tmp_path):
    sample = asking(tmp_path, FOUND[:3], FOUND[:3])
    queries = models.synthetic(
        tmp_path / "queries", [(f"s{i}", text, f"d{i}") for i, text in enumerate(VAIN)], "sample"
    )
    with pytest.raises(UserError, match=rf"^{queries}: 42 of 42 training queries"):
        retrieve(RetrieveConfig(), sample, queries, tmp_path / "out")
