"""Queries that are as an earlier run labelled them keep their negatives: retrieve and teacher_label as they are."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, PrepareConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.retrieve import RetrieveStats, retrieve
from inranker_flow.stages.teacher_label import LabelStats, teacher_label
from inranker_flow.store import negatives
from tests import beir, models

WORDS = [word for word in models.WORDS.split() if word.isalpha()][20:]
DOCUMENTS = {f"d{i:02d}": " ".join(random.Random(i).choices(WORDS, k=12)) for i in range(60)}
#: Of each third document; its text and the document.
QUERIES = {f"q{i:02d}": (" ".join(DOCUMENTS[f"d{i:02d}"].split()[:4]), f"d{i:02d}") for i in range(0, 60, 3)}
CONFIG = RetrieveConfig(depth=40, negatives=5, keep_share=0.6)


@dataclass(frozen=True)
class Labelled:
    """What a run made, and its pairs: query -> negatives."""

    digest: str
    found: RetrieveStats
    scored: LabelStats
    negatives: dict[str, set[str]]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    number = iter(range(100))

    def run(documents=DOCUMENTS, queries=QUERIES, config=CONFIG, before="", **teacher) -> Labelled:
        out = tmp_path / str(next(number))
        models.collection(out / "collection", documents)
        models.synthetic(out / "queries", ((query_id, *each) for query_id, each in queries.items()))
        found = retrieve(config, out / "collection", out / "queries", out / "candidates", before)
        settings = TeacherConfig(**{"checkpoint": models.t5(), **teacher})
        scored = teacher_label(settings, out / "collection", out / "candidates", out / "labels")
        negatives: dict[str, set[str]] = {query_id: set() for query_id in queries}
        for row in tables.read(tables.PAIRS, out / "candidates").to_pylist():
            if row["role"] == "negative":
                negatives[row["query_id"]].add(row["doc_id"])
            else:
                assert (row["role"], row["doc_id"]) == ("source", queries[row["query_id"]][1])
        return Labelled(read_manifest(out / "labels").content, found, scored, negatives)

    return run


def changed(*doc_ids: str) -> dict[str, str]:
    return {**DOCUMENTS, **{doc_id: " ".join(random.Random(doc_id).choices(WORDS, k=12)) for doc_id in doc_ids}}


def test_nothing_changed_and_the_training_set_is_the_same(run):
    first = run()
    again = run(before=first.digest)
    assert first.found.queries_kept == 0 and again.found.queries_kept == len(QUERIES)
    assert again.digest == first.digest and again.scored.reused_pairs == again.scored.pairs == first.scored.pairs


def test_a_changed_passage_is_labelled_for_its_own_queries_alone(run):
    first = run()
    # One that is a query's own passage and another query's negative.
    own = next(
        doc_id for _, doc_id in QUERIES.values() if any(doc_id in negatives for negatives in first.negatives.values())
    )
    [asked] = [query_id for query_id, (_, doc_id) in QUERIES.items() if doc_id == own]
    documents = changed(own)
    queries = {**QUERIES, asked: (" ".join(documents[own].split()[:4]), own)}
    kept, drawn = run(documents, queries, before=first.digest), run(documents, queries)
    assert kept.found.queries_kept == len(QUERIES) - 1 and drawn.found.queries_kept == 0
    for query_id in set(QUERIES) - {asked}:
        assert kept.negatives[query_id] == first.negatives[query_id] - {own}
    assert kept.negatives[asked] == drawn.negatives[asked]
    assert kept.scored.pairs - kept.scored.reused_pairs == 1 + len(kept.negatives[asked])
    assert kept.found.negatives_missing == drawn.found.negatives_missing == 0, "what was lost is not called missing"


def test_a_query_that_lost_too_many_draws_them_all_anew(run):
    first = run()
    asked = min(QUERIES)
    lost = sorted(first.negatives[asked] - {doc_id for _, doc_id in QUERIES.values()})
    some, many = lost[:2], lost[:3]
    assert len(many) == 3
    left = {name: text for name, text in DOCUMENTS.items() if name not in some}
    kept = run(left, before=first.digest)
    assert kept.negatives[asked] == first.negatives[asked] - set(some), "3 of 5 are the share that is asked for"
    left = {name: text for name, text in DOCUMENTS.items() if name not in many}
    kept, drawn = run(left, before=first.digest), run(left)
    assert kept.negatives[asked] == drawn.negatives[asked] and len(kept.negatives[asked]) == 5
    strict = run(left, config=RetrieveConfig(depth=40, negatives=5, keep_share=1), before=first.digest)
    touched = {query_id for query_id, negatives in first.negatives.items() if negatives & set(many)}
    assert strict.found.queries_kept == len(QUERIES) - len(touched) < len(QUERIES)
    assert all(strict.negatives[query_id] == drawn.negatives[query_id] for query_id in touched)


def test_texts_count_and_not_ids(run):
    first = run()
    names = {doc_id: f"new-{doc_id}" for doc_id in DOCUMENTS}
    documents = {names[doc_id]: text for doc_id, text in DOCUMENTS.items()}
    queries = {f"other-{query_id}": (text, names[doc_id]) for query_id, (text, doc_id) in QUERIES.items()}
    again = run(documents, queries, before=first.digest)
    assert again.found.queries_kept == len(QUERIES) and again.scored.reused_pairs == again.scored.pairs
    for query_id in QUERIES:
        assert again.negatives[f"other-{query_id}"] == {names[doc_id] for doc_id in first.negatives[query_id]}


@pytest.mark.parametrize("other", [{"seed": 1}, {"depth": 30}, {"k1": 1.2}, {"negatives": 4}])
def test_what_was_drawn_by_other_settings_is_drawn_anew(run, other):
    first = run()
    config = RetrieveConfig(**{**vars(CONFIG), **other})
    again = run(config=config, before=first.digest)
    assert again.found.queries_kept == 0 and again.negatives == run(config=config).negatives
    beside = RetrieveConfig(**{**vars(CONFIG), "keep_share": 0.9, "test_depth": 10})
    assert run(config=beside, before=first.digest).found.queries_kept == len(QUERIES)


def test_another_number_of_negatives_is_not_answered_with_what_was_kept(run):
    first = run()
    fewer = RetrieveConfig(depth=40, negatives=2)
    assert run(config=fewer, before=first.digest).negatives == run(config=fewer).negatives
    more = RetrieveConfig(depth=40, negatives=9)
    assert run(config=more, before=first.digest).negatives == run(config=more).negatives
    none = RetrieveConfig(depth=40, negatives=0)
    assert not any(run(config=none, before=first.digest).negatives.values())


def test_dropped_queries_are_remembered_too(run):
    first = run(keep_queries=5)
    assert first.scored.dropped_queries == len(QUERIES) - 5
    assert run(before=first.digest, keep_queries=5).found.queries_kept == len(QUERIES)


@pytest.mark.parametrize("damage", ["gone", "cut", "other", "scrambled", "settings"])
def test_without_its_record_all_is_drawn_anew_and_told(run, tmp_path, caplog, damage):
    first = run()
    path = tmp_path / "store" / "pairs" / f"{first.digest}.parquet"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "scrambled":
        path.write_bytes(path.read_bytes()[:4] + bytes(range(40)) + path.read_bytes()[44:])
    elif damage == "settings":
        pq.write_table(pq.read_table(path).replace_schema_metadata({b"drawn": b"{"}), path)
    else:
        tables.write(tables.QRELS, path, {"query_id": ["q"], "doc_id": ["d"], "relevance": [1]})
    again = run(before=first.digest)
    assert again.found.queries_kept == 0 and again.digest == first.digest
    assert f"{path} cannot be used" in caplog.text and "negatives are drawn anew" in caplog.text


def test_what_is_known_is_what_the_store_has(run, monkeypatch):
    first = run()
    assert negatives.known(first.digest) == first.digest
    assert negatives.known("0" * 64) == negatives.known("") == ""
    monkeypatch.setenv("INRANKER_STORE", "off")
    assert negatives.known(first.digest) == ""


def test_a_store_that_takes_no_record_costs_a_warning_not_the_labels(run, tmp_path, caplog):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "pairs").write_text("a file where the folder should be")
    first = run()
    assert first.scored.pairs == len(QUERIES) * 6 and negatives.known(first.digest) == ""
    assert "is not kept for the next run" in caplog.text and str(tmp_path / "store" / "pairs") in caplog.text


def test_a_query_whose_passage_is_gone_is_refused_as_ever(run):
    first = run()
    left = {name: text for name, text in DOCUMENTS.items() if name != "d00"}
    with pytest.raises(UserError, match=r"belongs to the passage 'd00', which .* lacks"):
        run(left, before=first.digest)


def test_supervised_queries_keep_theirs_by_all_their_judged_passages(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))

    def run(name: str, documents: dict[str, str], before: str = "") -> tuple[RetrieveStats, str]:
        out = Path(tmp_path / name)
        train = [(query_id, doc_id, 1) for query_id, (_, doc_id) in QUERIES.items()] + [("q00", "d01", 1)]
        beir.write(
            out / "beir", corpus=beir.jsonl({"_id": doc_id, "text": text} for doc_id, text in documents.items()),
            queries=beir.jsonl({"_id": query_id, "text": text} for query_id, (text, _) in QUERIES.items()),
            train=beir.tsv(train), test=None,
        )  # fmt: skip
        prepare_corpus(PrepareConfig(), CorpusConfig(uri=str(out / "beir"), name="sample"), out / "collection")
        stats = retrieve(CONFIG, out / "collection", None, out / "candidates", before)
        teacher_label(TeacherConfig(checkpoint=models.t5()), out / "collection", out / "candidates", out / "labels")
        return stats, read_manifest(out / "labels").content

    first, digest = run("first", DOCUMENTS)
    assert first.positives == len(QUERIES) + 1
    assert run("same", DOCUMENTS, digest)[0].queries_kept == len(QUERIES)
    other, _ = run("other", changed("d01"), digest)  # one of the two that q00 is judged with
    assert other.queries_kept == len(QUERIES) - 1
