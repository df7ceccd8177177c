"""Each first stage, through the stage that asks it: what is found, in which order, and what is kept."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.retrieval import BandsConfig, DenseConfig, RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.errors import CollectionFault
from inranker_flow.retrieval import bi_encoder, first_stages
from inranker_flow.retrieval.first_stage import Queries
from inranker_flow.retrieval.first_stages.hybrid import fused
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.retrieve import retrieve
from inranker_flow.store.negatives import drawn_by
from tests import beir, bi_encoders
from tests.refusals import refuses

WORDS = [f"w{number}" for number in range(300)]


def text(generator: random.Random, count: int) -> str:
    return " ".join(generator.choices(WORDS, k=count))


def prepared(tmp_path: Path, name: str = "sample", changed: int = 0, **config) -> Path:
    """A collection of 200 passages, of which the first ``changed`` have other texts, and its folder as it was given."""
    generator = random.Random(5)
    documents = [{"_id": f"d{i:03}", "title": "", "text": text(generator, 4 + i % 40)} for i in range(200)]
    for each in documents[:changed]:
        each["text"] += " another"
    queries = [{"_id": f"q{i}", "text": text(generator, 5)} for i in range(12)]
    folder = beir.write(
        tmp_path / name, corpus=beir.jsonl(documents), queries=beir.jsonl(queries),
        train=beir.tsv([(f"q{i}", f"d{i:03}", 1) for i in range(8)]),
        test=beir.tsv([(f"q{i}", f"d{i:03}", 1) for i in range(8, 12)]),
    )  # fmt: skip
    return prepare(folder, tmp_path / f"{name}-collection", **config)


def prepare(folder: Path, out: Path, runs: tuple[str, ...] = (), **config) -> Path:
    prepare_corpus(PrepareConfig(**config), CorpusConfig(uri=str(folder), name="sample", runs=runs), out)
    return out


def rows(table: tables.Table, folder: Path) -> list[dict[str, object]]:
    return tables.read(table, folder).to_pylist()


def ranked(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows(tables.RUN, folder):
        found.setdefault(str(row["query_id"]), []).append(str(row["doc_id"]))
    return found


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    return bi_encoders.make(tmp_path_factory.mktemp("encoders") / "model", "mean", {"query": "find: "})


# --- dense ------------------------------------------------------------------------------------------------------------


def test_dense_finds_what_brute_force_finds(tmp_path, encoder):
    sample = prepared(tmp_path)
    config = RetrieveConfig(first_stage="dense", dense=DenseConfig(str(encoder)), depth=20, test_depth=10, negatives=3)
    stats = retrieve(config, sample, None, tmp_path / "out")
    assert (stats.train_queries, stats.test_queries, stats.run_rows, stats.negatives) == (8, 4, 40, 24)
    corpus = sorted(rows(tables.CORPUS, sample), key=lambda row: row["doc_id"])
    model = bi_encoder.BiEncoder(config.dense)
    passages = model.passages([row["text"] for row in corpus])
    texts = {row["query_id"]: row["text"] for row in rows(tables.QUERIES, sample)}
    for query_id, found in ranked(tmp_path / "out").items():
        scores = passages @ model.queries([texts[query_id]])[0]
        expected = [corpus[place]["doc_id"] for place in np.argsort(-scores, kind="stable")[:10]]
        assert found == expected
    assert (tmp_path / "out" / "run.trec").read_text().split("\n")[0].endswith(" dense")


@pytest.fixture
def embedded(monkeypatch) -> Iterator[list[str]]:
    """Texts of passages that were embedded."""
    texts: list[str] = []
    passages = bi_encoder.BiEncoder.passages
    monkeypatch.setattr(
        bi_encoder.BiEncoder, "passages", lambda self, given: (texts.extend(given), passages(self, given))[1]
    )
    return texts


def test_only_changed_passages_are_embedded_again(tmp_path, encoder, embedded, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    config = RetrieveConfig(first_stage="dense", dense=DenseConfig(str(encoder)), depth=20, negatives=3)
    for name, changed, expected in (("first", 0, 200), ("again", 0, 0), ("changed", 4, 4)):
        embedded.clear()
        retrieve(config, prepared(tmp_path, name, changed), None, tmp_path / name / "out")
        assert len(embedded) == expected, "4 of 200 changed: 2 %"
    assert ranked(tmp_path / "first" / "out") == ranked(tmp_path / "again" / "out")
    embedded.clear()
    other = bi_encoders.make(tmp_path / "other", "cls")
    retrieve(
        RetrieveConfig(first_stage="dense", dense=DenseConfig(str(other))), prepared(tmp_path), None, tmp_path / "o"
    )
    assert len(embedded) == 200, "vectors of another encoder"


def test_equal_texts_are_embedded_once_and_found_in_the_order_of_their_ids(tmp_path, encoder, embedded):
    documents = [
        {"_id": f"d{i}", "title": "", "text": "granite rock" if i % 2 else f"w{i} w1"} for i in range(9, 0, -1)
    ]
    folder = beir.write(
        tmp_path / "twice", corpus=beir.jsonl(documents), queries=beir.jsonl([{"_id": "q", "text": "granite rock"}]),
        train=None, test=beir.tsv([("q", "d1", 1)]),
    )  # fmt: skip
    config = RetrieveConfig(first_stage="dense", dense=DenseConfig(str(encoder)), test_depth=3)
    retrieve(config, prepare(folder, tmp_path / "c"), None, tmp_path / "out")
    assert len(embedded) == 5
    found = ranked(tmp_path / "out")["q"]
    assert found == ["d1", "d3", "d5"] or not {"d1", "d3", "d5", "d7", "d9"} & set(found)


def test_a_killed_embedding_goes_on_behind_its_last_chunk(tmp_path, encoder, embedded, monkeypatch):
    from inranker_flow.retrieval import vectors

    monkeypatch.setattr(vectors, "_CHUNK", 0)
    monkeypatch.setattr(vectors, "_LEAST", 50)
    sample = prepared(tmp_path)
    config = RetrieveConfig(first_stage="dense", dense=DenseConfig(str(encoder)))
    put = vectors.ContentStore.put
    kept = []

    def killed(self, keys, values):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(len(keys))
        return put(self, keys, values)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(vectors.ContentStore, "put", killed)
        retrieve(config, sample, None, tmp_path / "out")
    assert (kept, len(embedded)) == ([50, 50], 150)
    embedded.clear()
    retrieve(config, sample, None, tmp_path / "out")
    assert len(embedded) == 100


# --- hybrid -----------------------------------------------------------------------------------------------------------


def test_fusion_is_by_reciprocal_ranks():
    lists = [(np.array([7, 3, 5]), np.ones(3)), (np.array([5, 9]), np.ones(2))]
    places, scores = fused(lists, 10, 60)
    assert places.tolist() == [5, 7, 3, 9]
    assert scores.tolist() == pytest.approx([1 / 63 + 1 / 61, 1 / 61, 1 / 62, 1 / 62])
    assert fused(lists, 3, 60)[0].tolist() == [5, 7, 3], "of equal scores the first passage"
    assert fused([(np.empty(0, np.int64), np.empty(0))] * 2, 3, 60)[0].tolist() == []


def test_hybrid_is_the_fusion_of_both(tmp_path, encoder):
    sample = prepared(tmp_path)
    queries = Queries(["a", "b"], ["w1 w2", "nothing shares these words"])
    found = {}
    for kind in ("bm25", "dense", "hybrid"):
        config = RetrieveConfig(first_stage=kind, dense=DenseConfig(str(encoder)))
        with first_stages.open_first_stage(config, sample, 2) as opened:
            [found[kind]] = opened.find([queries], 30)
    for words, vectors, both in zip(*found.values(), strict=True):
        expected = fused([words, vectors], 30, 60)
        assert both[0].tolist() == expected[0].tolist() and both[1].tolist() == expected[1].tolist()
    assert len(found["bm25"][1][0]) == 0 and len(found["hybrid"][1][0]) == 30


# --- run files --------------------------------------------------------------------------------------------------------


def trec(found: dict[str, list[tuple[str, float]]]) -> bytes:
    lines = (
        f"{query} Q0 {doc} {rank} {score} other\n"
        for query, hits in found.items()
        for rank, (doc, score) in enumerate(hits)
    )
    return "".join(lines).encode()


#: What another system found: out of order, with ties, and for a query that nobody asks.
HITS = {
    **{f"q{i}": [(f"d{j:03}", float(j % 7)) for j in range(30)] for i in range(12)},
    "other": [("d001", 1.0)],
}
BEST = [f"d{j:03}" for j in sorted(range(30), key=lambda j: (-(j % 7), j))]


def recorded(tmp_path: Path, files: dict[str, bytes], **config) -> Path:
    prepared(tmp_path)
    for name, data in files.items():
        (tmp_path / "sample" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "sample" / name).write_bytes(data)
    return prepare(tmp_path / "sample", tmp_path / "with-runs", tuple(files), **config)


@pytest.mark.parametrize("form", ["trec", "parquet"])
def test_run_files_are_read_in_either_form(tmp_path, form):
    halves = [dict(list(HITS.items())[:6]), dict(list(HITS.items())[6:])]
    files = {f"runs/{number}.trec": trec(half) for number, half in enumerate(halves)}
    if form == "parquet":
        flat = [(query, *hit) for query, hits in HITS.items() for hit in hits]
        table = pa.table(dict(zip(("query_id", "doc_id", "score"), map(list, zip(*flat, strict=True)), strict=True)))
        out = io.BytesIO()
        pq.write_table(table, out)
        files = {"run.parquet": out.getvalue()}
    sample = recorded(tmp_path, files)
    config = RetrieveConfig(first_stage="run", depth=20, test_depth=10, negatives=3)
    stats = retrieve(config, sample, None, tmp_path / "out")
    assert (stats.run_rows, stats.negatives) == (40, 24)
    assert set(map(tuple, ranked(tmp_path / "out").values())) == {tuple(BEST[:10])}
    negatives = {row["doc_id"] for row in rows(tables.PAIRS, tmp_path / "out") if row["role"] == "negative"}
    assert negatives <= set(BEST[:20])
    assert "run" in drawn_by(config, sample)


def test_what_is_wrong_with_a_run_file_is_said_before_anything_is_searched(tmp_path):
    config = RetrieveConfig(first_stage="run", depth=20)
    with refuses("collection-row", "line 3", "'nowhere'", "1 rows of a run about a document that is not there"):
        recorded(tmp_path, {"run": trec({"q0": [("d000", 1.0), ("d001", 1.0), ("nowhere", 0.5)]})})
    repaired = recorded(tmp_path, {"run": trec({**HITS, "q0": [("d000", 1.0), ("nowhere", 0.5)]})}, on_problem="repair")
    retrieve(config, repaired, None, tmp_path / "out")
    with refuses("collection-row", "line 2", "before"):
        recorded(tmp_path, {"run": trec({"q0": [("d000", 1.0), ("d000", 1.0)]})})
    with refuses("collection-row", "line 1", "4 columns"):
        recorded(tmp_path, {"run": b"q0 0 d000 1\n"})
    with refuses("collection-row", "line 1", "'high'"):
        recorded(tmp_path, {"run": b"q0 Q0 d000 1 high x\n"})
    with refuses("not-found", "nowhere.trec"):
        prepare(tmp_path / "sample", tmp_path / "lost", ("nowhere.trec",))
    few = recorded(tmp_path, {"run": trec({query: HITS[query] for query in ("q0", "q1", "q9")})})
    with refuses("run-incomplete", "6 of 8 training queries", "'q2'") as caught:
        retrieve(config, few, None, tmp_path / "out")
    assert isinstance(caught.value, CollectionFault), "a target with it may be left out"
    with refuses("run-incomplete", "no run file") as caught:
        retrieve(config, prepared(tmp_path), None, tmp_path / "out")
    assert isinstance(caught.value, CollectionFault)


def test_rows_of_a_run_about_queries_that_are_not_there_are_counted(tmp_path):
    """They are often another split's."""
    folder = recorded(tmp_path, {"run": trec(HITS), "more": trec({"q98": HITS["q0"], "q99": HITS["q1"]})})
    [found] = [each for each in read_manifest(folder).details["problems"] if each["kind"] == "run_unknown_query"]
    assert found["count"] == 61 and "'other'" in found["examples"][0]["what"]
    few = recorded(tmp_path, {"run": trec(HITS)}, max_test_queries=1, max_train_queries=2)
    [found] = [each for each in read_manifest(few).details["problems"] if each["kind"] == "run_unknown_query"]
    assert found["count"] == 1, "those that were not drawn are there"


def test_a_query_whose_hits_were_not_drawn_finds_nothing(tmp_path):
    """A run file of the whole collection goes with a first look at a part of it."""
    far = {**HITS, "q9": [("d150", 1.0), ("d151", 0.5)], "q10": [("d150", 1.0)], "q11": [("d010", 2.0), ("d150", 1.0)]}
    folder = recorded(tmp_path, {"run": trec(far)}, max_documents=20)
    drawn = {row["doc_id"] for row in rows(tables.CORPUS, folder)}
    assert not drawn & {"d150", "d151"} and "d010" in drawn
    stats = retrieve(RetrieveConfig(first_stage="run", depth=20), folder, None, tmp_path / "out")
    assert stats.test_queries_without_hits == 2 and ranked(tmp_path / "out")["q11"] == ["d010"]
    with refuses("run-incomplete", "1 of 4 test queries", "'q8'"):
        del far["q8"]
        retrieve(RetrieveConfig(first_stage="run"), recorded(tmp_path, {"run": trec(far)}, max_documents=20), None,
            tmp_path / "lost")  # fmt: skip


def test_of_documents_that_were_cut_a_run_names_the_passages(tmp_path):
    prepared(tmp_path)
    for number, (name, code) in enumerate((("d050", "collection-row"), ("d050#1", ""))):
        (tmp_path / "sample" / "run").write_bytes(trec({"q0": [(name, 1.0)]}))
        corpus = CorpusConfig(str(tmp_path / "sample"), "sample", runs=("run",), passage_tokens=3)
        with refuses(code, "which the collection lacks") if code else nullcontext():
            prepare_corpus(PrepareConfig(), corpus, tmp_path / f"cut{number}")
    assert rows(tables.RUN, tmp_path / "cut1")[0]["doc_id"] == "d050#1"


def test_what_negatives_are_drawn_by_says_what_the_first_stage_is(tmp_path):
    sample = prepared(tmp_path)
    plain = drawn_by(RetrieveConfig(), sample)
    assert "first_stage" not in plain and plain == drawn_by(RetrieveConfig(dense=DenseConfig("unused")), sample)
    others = [
        drawn_by(RetrieveConfig(first_stage="dense", dense=DenseConfig("a")), sample),
        drawn_by(RetrieveConfig(first_stage="dense", dense=DenseConfig("b")), sample),
        drawn_by(RetrieveConfig(first_stage="hybrid", dense=DenseConfig("a")), sample),
        drawn_by(RetrieveConfig(bands=BandsConfig(top=3)), sample),
    ]
    assert all(each not in others[:place] and each != plain for place, each in enumerate(others))


# --- bands ------------------------------------------------------------------------------------------------------------


def test_bands_are_drawn_from_their_ranks(tmp_path):
    everything = {f"q{i}": [(f"d{j:03}", -float(j)) for j in range(100)] for i in range(12)}
    sample = recorded(tmp_path, {"run": trec(everything)})
    bands = BandsConfig(top=3, middle=4, random=2)
    config = RetrieveConfig(first_stage="run", depth=100, bands=bands, negatives=1)
    stats = retrieve(config, sample, None, tmp_path / "out")
    assert (stats.negatives, stats.negatives_missing) == (8 * 9, 0)
    drawn: dict[str, list[int]] = {}
    for row in rows(tables.PAIRS, tmp_path / "out"):
        if row["role"] == "negative":
            drawn.setdefault(str(row["query_id"]), []).append(int(str(row["doc_id"])[1:]))
    for query_id, ranks in drawn.items():
        assert ranks == sorted(set(ranks)) and int(query_id[1:]) not in ranks, "in their order, never the relevant one"
        top, middle = (sum(rank in band for rank in ranks) for band in (range(10), range(10, 50)))
        assert top >= 3 and middle >= 4 and top + middle <= 9
    assert len({tuple(ranks) for ranks in drawn.values()}) == 8
    # The draw of a band does not hang on the others.
    alone = RetrieveConfig(first_stage="run", depth=100, bands=BandsConfig(middle=4))
    retrieve(alone, sample, None, tmp_path / "alone")
    for row in rows(tables.PAIRS, tmp_path / "alone"):
        assert row["role"] != "negative" or int(str(row["doc_id"])[1:]) in drawn[str(row["query_id"])]


def test_bands_of_few_passages_lack_some(tmp_path):
    sample = recorded(tmp_path, {"run": trec({f"q{i}": [("d100", 2.0), ("d101", 1.0)] for i in range(12)})})
    bands = BandsConfig(top=3, middle=4, random=2)
    stats = retrieve(RetrieveConfig(first_stage="run", bands=bands), sample, None, tmp_path / "out")
    assert (stats.negatives, stats.negatives_missing) == (8 * 2, 8 * 7), "the best tenth of two passages is the first"
