"""The stage `teacher_label` with a real (small, random) teacher."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.config.sections import ScoringConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.labelling import label_store, one_teacher
from inranker_flow.labelling.label_store import label_identity
from inranker_flow.rankers.base import Job
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.scoring.job import Checkpoint
from inranker_flow.stages.teacher_label import teacher_label
from tests import models
from tests.refusals import refuses

NOUNS = [word for word in models.WORDS.split() if word.isalpha()][20:]
DOCUMENTS = {f"d{i}": " ".join(NOUNS[(i + k) % len(NOUNS)] for k in range(1 + i * 7 % 23)) for i in range(40)}
QUERIES = {f"q{i}": f"where is the {NOUNS[i]}" for i in range(10)}
PAIRS = [(f"q{i}", f"d{(3 * i + k) % 30}") for i in (4, 2, 7, 0, 9, 1) for k in (5, 1, 3, 0)]


@pytest.fixture
def inputs(tmp_path):
    collection = models.collection(tmp_path / "collection", DOCUMENTS)
    return collection, models.candidates(tmp_path / "candidates", QUERIES, PAIRS)


def config(**changes):
    return TeacherConfig(**{"checkpoint": models.t5(), "shard_pairs": 5, **changes})


def read(folder):
    rows = tables.read(tables.LABELS, folder).to_pylist()
    return {(row["query_id"], row["doc_id"]): (row["false_logit"], row["true_logit"]) for row in rows}


def test_every_pair_has_the_rankers_logits_under_its_own_ids(inputs, tmp_path):
    stats = teacher_label(config(), *inputs, tmp_path / "labels")
    found = read(tmp_path / "labels")
    assert set(found) == set(PAIRS)
    expected = load_ranker(models.t5(), ScoringConfig()).score([(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS])
    assert np.array([found[pair] for pair in PAIRS]) == pytest.approx(expected, abs=1e-5)
    assert len({round(each[1] - each[0], 4) for each in found.values()}) > 20, (
        "the pairs differ, so a mix-up would show"
    )
    assert (stats.pairs, stats.published, stats.queries, stats.reused_pairs) == (24, 0, 6, 0)
    ranker = load_ranker(models.t5(), ScoringConfig())
    assert stats.tokens == sum(len(ranker.renderer.render(QUERIES[q], DOCUMENTS[d])) for q, d in PAIRS)
    assert stats.pairs_per_second > 0 and stats.tokens_per_second > stats.pairs_per_second


def test_the_training_set_is_self_contained(inputs, tmp_path):
    teacher_label(config(), *inputs, tmp_path / "labels")
    queries = {row["query_id"]: row["text"] for row in tables.read(tables.QUERIES, tmp_path / "labels").to_pylist()}
    corpus = {row["doc_id"]: row["text"] for row in tables.read(tables.CORPUS, tmp_path / "labels").to_pylist()}
    assert queries == {query_id: QUERIES[query_id] for query_id, _ in PAIRS}
    assert corpus == {doc_id: DOCUMENTS[doc_id] for _, doc_id in PAIRS} and len(corpus) < len(DOCUMENTS)
    manifest = read_manifest(tmp_path / "labels")
    assert (manifest.dataset, manifest.stage) == ("toy", "teacher_label")
    assert manifest.details["teacher"] == models.t5() and manifest.details["renderer"] == "1"
    assert manifest.details["identity"]["checkpoint"].startswith("sha256:")
    assert set(manifest.files) == {"queries.parquet", "corpus.parquet", "labels.parquet"}


@pytest.mark.parametrize("shard_pairs", [1, 7, 1000])
def test_sharding_changes_neither_order_nor_logits(inputs, tmp_path, shard_pairs):
    teacher_label(config(shard_pairs=shard_pairs), *inputs, tmp_path / "labels")
    table = tables.read(tables.LABELS, tmp_path / "labels")
    keys = list(zip(table.column("query_id").to_pylist(), table.column("doc_id").to_pylist(), strict=True))
    assert keys == sorted(PAIRS)
    teacher_label(config(shard_pairs=5), *inputs, tmp_path / "others")
    others = read(tmp_path / "others")
    assert np.array(list(read(tmp_path / "labels").values())) == pytest.approx(
        np.array(list(others.values())), abs=1e-5
    )


def test_a_killed_run_continues_after_its_last_shard(inputs, tmp_path, monkeypatch):
    teacher_label(config(), *inputs, tmp_path / "whole")
    inner, calls = Job.score, []

    def dies(job, rows, progress=None):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(len(rows))
        return inner(job, rows, progress)

    monkeypatch.setattr(Job, "score", dies)
    with pytest.raises(KeyboardInterrupt):
        teacher_label(config(), *inputs, tmp_path / "labels")
    assert calls == [5, 5, 5] and not (tmp_path / "labels" / "manifest.json").exists()

    calls.clear()
    monkeypatch.setattr(
        Job, "score", lambda job, rows, progress=None: calls.append(len(rows)) or inner(job, rows, progress)
    )
    stats = teacher_label(config(), *inputs, tmp_path / "labels")
    assert calls == [5, 4] and stats.reused_pairs == 15 and stats.pairs == 24
    assert read(tmp_path / "labels") == read(tmp_path / "whole")
    assert read_manifest(tmp_path / "labels") == read_manifest(tmp_path / "whole"), "no trace of the interruption"

    # Complete: nothing is left behind, so the same work starts anew.
    assert teacher_label(config(), *inputs, tmp_path / "again").reused_pairs == 0


@pytest.mark.parametrize("change", ["teacher", "scoring", "corpus"])
def test_other_work_never_takes_a_shard(inputs, tmp_path, monkeypatch, change):
    inner, calls = Job.score, []

    def dies(job, rows, progress=None):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(rows))
        return inner(job, rows, progress)

    with monkeypatch.context() as patched:
        patched.setattr(Job, "score", dies)
        with pytest.raises(KeyboardInterrupt):
            teacher_label(config(), *inputs, tmp_path / "labels")
    collection, candidates = inputs
    setting = config()
    if change == "teacher":
        setting = config(checkpoint=models.t5(seed=1))
    elif change == "scoring":
        setting = config(scoring=ScoringConfig(max_length=24))
    else:
        collection = models.collection(tmp_path / "changed", {**DOCUMENTS, "d5": "other words"})
    assert teacher_label(setting, collection, candidates, tmp_path / "labels").reused_pairs == 0


# --- the label store --------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def scored(monkeypatch):
    """How many pairs each call of the teacher scored."""
    inner, calls = Job.score, []
    monkeypatch.setattr(
        Job, "score", lambda job, rows, progress=None: calls.append(len(rows)) or inner(job, rows, progress)
    )
    return calls


def label_files(store):
    return sorted(store.glob("labels/*/*.parquet"))


def test_what_is_in_the_store_needs_no_teacher(inputs, tmp_path, store, scored, monkeypatch):
    first = teacher_label(config(), *inputs, tmp_path / "labels")
    assert (first.reused_pairs, sum(scored)) == (0, 24) and len(label_files(store)) == 5
    monkeypatch.setattr(one_teacher, "load_ranker", lambda *_: pytest.fail("the teacher was loaded"))
    again = teacher_label(config(shard_pairs=7), *inputs, tmp_path / "again")
    assert (again.pairs, again.reused_pairs, again.tokens) == (24, 24, 0)
    assert read_manifest(tmp_path / "again") == read_manifest(tmp_path / "labels")


def test_labels_belong_to_texts_not_to_ids(tmp_path, store, scored, inputs):
    teacher_label(config(), *inputs, tmp_path / "labels")
    scored.clear()
    collection = models.collection(
        tmp_path / "other", {f"x{doc}": text for doc, text in DOCUMENTS.items()}, dataset="new"
    )
    queries = {f"y{query}": text for query, text in QUERIES.items()}
    pairs = [(f"y{query}", f"x{doc}") for query, doc in PAIRS]
    candidates = models.candidates(tmp_path / "pairs", queries, [*pairs, ("yq5", "xd5")], dataset="new")
    stats = teacher_label(config(), collection, candidates, tmp_path / "labels2")
    assert (stats.pairs, stats.reused_pairs, scored) == (25, 24, [1])
    ours, theirs = read(tmp_path / "labels"), read(tmp_path / "labels2")
    assert {key: theirs[f"y{key[0]}", f"x{key[1]}"] for key in PAIRS} == ours


def test_a_changed_document_is_labelled_anew_and_nothing_else(inputs, tmp_path, store, scored):
    teacher_label(config(), *inputs, tmp_path / "labels")
    changed = PAIRS[0][1]
    asked = sum(doc == changed for _, doc in PAIRS)
    scored.clear()
    collection = models.collection(tmp_path / "changed", {**DOCUMENTS, changed: "quite other words"})
    stats = teacher_label(config(), collection, inputs[1], tmp_path / "again")
    assert sum(scored) == asked == stats.pairs - stats.reused_pairs > 0
    before, after = read(tmp_path / "labels"), read(tmp_path / "again")
    assert {pair for pair in PAIRS if before[pair] != after[pair]} == {pair for pair in PAIRS if pair[1] == changed}


def test_two_ids_with_the_same_text_are_scored_once(tmp_path, scored):
    collection = models.collection(tmp_path / "collection", {"d1": "bread", "d2": "river", "d3": "bread"})
    candidates = models.candidates(tmp_path / "pairs", {"q": "a moon"}, [("q", "d1"), ("q", "d2"), ("q", "d3")])
    stats = teacher_label(config(), collection, candidates, tmp_path / "labels")
    found = read(tmp_path / "labels")
    assert sum(scored) == 2 and found["q", "d1"] == found["q", "d3"] != found["q", "d2"]
    assert (stats.pairs, stats.reused_pairs) == (3, 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"checkpoint": "seed=1"}, {"scoring": ScoringConfig(max_length=24)}, {"scoring": ScoringConfig(dtype="bfloat16")},
        {"scoring": ScoringConfig(forward="reference")}, {"scoring": ScoringConfig(truncation="reference")},
    ],
)  # fmt: skip
def test_labels_of_another_teacher_or_other_settings_are_never_taken(inputs, tmp_path, store, changed):
    teacher_label(config(), *inputs, tmp_path / "labels")
    if "checkpoint" in changed:
        changed = {"checkpoint": models.t5(seed=1)}
    assert teacher_label(config(**changed), *inputs, tmp_path / "again").reused_pairs == 0
    assert len(list(store.glob("labels/*"))) == 2


def test_settings_that_change_no_value_share_their_labels():
    def identity(**scoring):
        return label_identity(Checkpoint(models.t5(), scoring=ScoringConfig(**scoring)))

    same = identity()
    assert identity(batch_tokens=512) == same
    assert identity(dtype="float32") == same, "what auto is on a CPU"
    assert identity(prompt="{query} {document} {answer}") != same


def test_another_renderer_labels_everything_anew(inputs, tmp_path, store, monkeypatch):
    teacher_label(config(), *inputs, tmp_path / "labels")
    monkeypatch.setattr(label_store, "RENDERER_VERSION", "next")
    assert teacher_label(config(), *inputs, tmp_path / "again").reused_pairs == 0


def test_a_damaged_file_of_the_store_is_labelled_again(inputs, tmp_path, store, caplog):
    teacher_label(config(), *inputs, tmp_path / "labels")
    bad = label_files(store)[2]
    lost = pq.read_metadata(bad).num_rows
    bad.write_bytes(bad.read_bytes()[:-1])
    stats = teacher_label(config(), *inputs, tmp_path / "again")
    assert stats.pairs - stats.reused_pairs == lost and "damaged" in caplog.text
    assert np.array(list(read(tmp_path / "again").values())) == pytest.approx(
        np.array(list(read(tmp_path / "labels").values())), abs=1e-5
    )


def test_a_killed_run_continues_on_another_machine(inputs, tmp_path, store, monkeypatch, scored):
    teacher_label(config(), *inputs, tmp_path / "whole")
    shutil.rmtree(store)
    inner = Job.score
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def dies(job, rows, progress=None):
            if len(label_files(store)) == 3:
                raise KeyboardInterrupt
            return inner(job, rows, progress)

        patched.setattr(Job, "score", dies)
        teacher_label(config(), *inputs, tmp_path / "labels")
    scored.clear()
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "another-scratch"))
    stats = teacher_label(config(), *inputs, tmp_path / "labels")
    assert scored == [5, 4] and stats.reused_pairs == 15
    assert read_manifest(tmp_path / "labels") == read_manifest(tmp_path / "whole"), "no trace of the interruption"


def test_what_another_process_does_meanwhile_is_not_done_again(inputs, tmp_path, store, monkeypatch):
    """While one scores its first shard, another one does the same work, and dies in its fourth."""
    inner, ours, theirs = Job.score, [], []

    def score(job, rows, progress=None):
        if not ours:
            ours.append(len(rows))
            with pytest.raises(KeyboardInterrupt):
                teacher_label(config(), *inputs, tmp_path / "theirs")
        elif len(theirs) < 4:
            theirs.append(len(rows))
            if len(theirs) == 4:
                raise KeyboardInterrupt
        else:
            ours.append(len(rows))
        return inner(job, rows, progress)

    monkeypatch.setattr(Job, "score", score)
    stats = teacher_label(config(), *inputs, tmp_path / "ours")
    assert theirs == [5, 5, 5, 5] and sorted(ours) == [4, 5, 5], "the first shard of both, and the two that are left"
    assert (stats.pairs - stats.reused_pairs, len(label_files(store))) == (14, 5)
    monkeypatch.setenv("INRANKER_STORE", "off")
    monkeypatch.setattr(Job, "score", inner)
    teacher_label(config(), *inputs, tmp_path / "alone")
    assert read(tmp_path / "ours") == read(tmp_path / "alone")


PUBLISHED = {("s1", "d38"): (-1.5, 2.25), ("s1", "d39"): (3.0, 1e-9), ("s2", "d0"): (0.1, 0.2)}
PUBLISHED_QUERIES = {"s1": ("supervised", "a river"), "s2": ("supervised", "a moon"), "s3": ("supervised", "no label")}


def test_published_labels_need_no_teacher(tmp_path):
    collection = models.collection(tmp_path / "collection", DOCUMENTS, PUBLISHED_QUERIES, PUBLISHED)
    candidates = models.candidates(tmp_path / "candidates", {}, [])
    stats = teacher_label(config(checkpoint="/no/such/teacher"), collection, candidates, tmp_path / "labels")
    assert read(tmp_path / "labels") == PUBLISHED
    assert (stats.pairs, stats.published, stats.queries, stats.documents) == (0, 3, 2, 3)
    assert read_manifest(tmp_path / "labels").details["teacher"] == ""


def test_published_labels_and_scored_pairs_together(tmp_path):
    collection = models.collection(tmp_path / "collection", DOCUMENTS, PUBLISHED_QUERIES, PUBLISHED)
    # s2/d0 is published already, so the teacher's opinion on it is not asked for.
    queries = {**QUERIES, "s2": "a moon"}
    candidates = models.candidates(tmp_path / "candidates", queries, [*PAIRS, ("s2", "d0"), ("s2", "d1")])
    stats = teacher_label(config(), collection, candidates, tmp_path / "labels")
    found = read(tmp_path / "labels")
    assert {key: found[key] for key in PUBLISHED} == PUBLISHED
    assert set(found) == {*PAIRS, *PUBLISHED, ("s2", "d1")} and (stats.pairs, stats.published) == (25, 3)
    ids = tables.read(tables.QUERIES, tmp_path / "labels").column("query_id").to_pylist()
    assert ids == sorted({query_id for query_id, _ in found})


def test_the_queries_whose_source_document_the_teacher_finds_most_relevant_are_kept(inputs, tmp_path):
    collection, candidates = inputs
    sources = {
        query_id: next(doc_id for other, doc_id in PAIRS if other == query_id) for query_id in ("q0", "q2", "q4", "q7")
    }
    sources["q9"] = "d39"  # not among its pairs: the last
    queries = tables.read(tables.QUERIES, candidates).to_pylist()
    for row in queries:
        row["source_doc_id"] = sources.get(row["query_id"])  # q1 has none: supervised, say
    columns = {name: [row[name] for row in queries] for name in tables.QUERIES.schema.names}
    tables.write(tables.QUERIES, candidates / tables.QUERIES.filename, columns)
    write_manifest(candidates, dataset="toy", stage="retrieve")

    whole = teacher_label(config(), collection, candidates, tmp_path / "whole")
    scores = {pair: true - false for pair, (false, true) in read(tmp_path / "whole").items()}
    order = sorted(sources, key=lambda query_id: -scores.get((query_id, sources[query_id]), -np.inf))
    assert order[-1] == "q9" and whole.dropped_queries == 0
    for most in (4, 2):
        stats = teacher_label(config(keep_queries=most), collection, candidates, tmp_path / "kept")
        kept = {"q1", *order[:most]}
        assert (stats.pairs, stats.dropped_queries) == (24, 5 - most), "scored they were all"
        assert set(tables.read(tables.QUERIES, tmp_path / "kept").column("query_id").to_pylist()) == kept
        assert read(tmp_path / "kept") == {
            pair: both for pair, both in read(tmp_path / "whole").items() if pair[0] in kept
        }
        assert read_manifest(tmp_path / "kept").details["counts"]["dropped_queries"] == 5 - most
    assert teacher_label(config(keep_queries=5), collection, candidates, tmp_path / "all").dropped_queries == 0


def test_long_passages_are_read_as_the_renderer_cuts_them(tmp_path):
    collection = models.collection(tmp_path / "collection", {"long": "stone " * 500, "short": "stone"})
    candidates = models.candidates(tmp_path / "candidates", {"q": "a moon"}, [("q", "long"), ("q", "short")])
    stats = teacher_label(config(scoring=ScoringConfig(max_length=32)), collection, candidates, tmp_path / "labels")
    assert stats.tokens == 32 + 7


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(inputs, tmp_path, setting=None):
    with pytest.raises(UserError) as error:
        teacher_label(setting or config(), *inputs, tmp_path / "labels")
    assert not (tmp_path / "labels" / "manifest.json").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_pair_of_an_unknown_document(inputs, tmp_path):
    models.candidates(inputs[1], QUERIES, [*PAIRS, ("q1", "d99")])
    message = refused(inputs, tmp_path)
    assert "pairs.parquet: row 25 has doc_id 'd99', which" in message and "corpus.parquet lacks" in message


def test_a_pair_of_an_unknown_query(inputs, tmp_path):
    models.candidates(inputs[1], QUERIES, [("q77", "d1"), *PAIRS])
    assert "pairs.parquet: row 1 has query_id 'q77', which" in refused(inputs, tmp_path)


def test_nothing_to_label(inputs, tmp_path):
    models.candidates(inputs[1], QUERIES, [])
    assert "toy: no pairs to label and no published labels" in refused(inputs, tmp_path)


def test_candidates_of_another_dataset(inputs, tmp_path):
    models.candidates(inputs[1], QUERIES, PAIRS, dataset="other")
    assert "candidates of 'other' do not belong to the collection 'toy'" in refused(inputs, tmp_path)


def test_logits_that_are_not_finite(inputs, tmp_path):
    import torch

    from inranker_flow.rankers.checkpoints import load_seq2seq

    model, tokenizer = load_seq2seq(models.t5())
    with torch.no_grad():
        model.encoder.block[0].layer[1].DenseReluDense.wo.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    message = refused(inputs, tmp_path, config(checkpoint=str(tmp_path / "broken")))
    assert "5 of 5 pairs have logits that are not finite" in message and "float32 or bfloat16" in message


def test_a_full_disk_leaves_no_shard_half_written(inputs, tmp_path, monkeypatch):
    """The shard's file is never seen under its name: the next attempt makes it again."""

    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", full)
        with refuses("disk-full"):
            teacher_label(config(), *inputs, tmp_path / "labels")
    assert not [each for each in Path(os.environ["INRANKER_SCRATCH"]).rglob("*") if each.is_file()]
    assert teacher_label(config(), *inputs, tmp_path / "labels").reused_pairs == 0


def test_stage_needs_no_torch_to_pass_published_labels_through():
    """A stage is a process: importing torch costs seconds that an import of labels need not pay."""
    import subprocess
    import sys

    script = "import sys; from inranker_flow.stages import generate_queries, teacher_label; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_the_pairs_that_people_judged_relevant_go_along(inputs, tmp_path):
    """Of the candidates' pairs, those with the role positive; a target's synthetic queries have none."""
    collection, candidates = inputs
    teacher_label(config(), collection, candidates, tmp_path / "without")
    assert not (tmp_path / "without" / "judged.parquet").exists()
    pairs = tables.read(tables.PAIRS, candidates).to_pylist()
    chosen = sorted((row["query_id"], row["doc_id"]) for row in pairs[::5])
    roles = ["positive" if (row["query_id"], row["doc_id"]) in chosen else row["role"] for row in pairs]
    columns = {name: [row[name] for row in pairs] for name in ("query_id", "doc_id")}
    tables.write(tables.PAIRS, candidates / "pairs.parquet", {**columns, "role": roles})
    manifest = read_manifest(candidates)
    write_manifest(candidates, dataset=manifest.dataset, stage=manifest.stage)
    teacher_label(config(), collection, candidates, tmp_path / "labels")
    judged = tables.read(tables.JUDGED, tmp_path / "labels").to_pylist()
    assert [(row["query_id"], row["doc_id"]) for row in judged] == chosen
