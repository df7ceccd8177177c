"""Vectors are those of sentence-transformers, for each kind of bi-encoder, or the checkpoint is refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from inranker_flow.config.retrieval import DenseConfig
from inranker_flow.errors import CollectionFault
from tests import bi_encoders
from tests.refusals import refuses

pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer

from inranker_flow.rankers.checkpoints import read_file
from inranker_flow.retrieval.bi_encoder import BiEncoder, identity
from inranker_flow.retrieval.bi_encoder_form import read_form

#: A real one, where this machine has it.
REAL = Path(os.environ.get("INRANKER_TEST_MINILM") or "no-folder-is-named")


def compare(folder: Path, **settings) -> None:
    theirs = SentenceTransformer(str(folder), device="cpu")
    ours = BiEncoder(DenseConfig(str(folder), **settings))
    query, passage = ours.queries(bi_encoders.TEXTS), ours.passages(bi_encoders.TEXTS)
    expected = theirs.encode_query(bi_encoders.TEXTS), theirs.encode_document(bi_encoders.TEXTS)
    if ours.form.normalize:
        expected = tuple(each / np.linalg.norm(each, axis=1, keepdims=True) for each in expected)
    np.testing.assert_allclose(query, expected[0], atol=1e-5)
    np.testing.assert_allclose(passage, expected[1], atol=1e-5)
    np.testing.assert_allclose(query @ passage.T, expected[0] @ expected[1].T, atol=1e-5)


@pytest.mark.parametrize("kind", bi_encoders.KINDS)
@pytest.mark.parametrize("prompts", [None, {"query": "Instruct: find it\nQuery: ", "document": "passage: "}])
def test_vectors_are_those_of_sentence_transformers(tmp_path, kind, prompts):
    compare(bi_encoders.make(tmp_path / "model", kind, prompts))


def test_a_prompt_that_is_not_pooled(tmp_path):
    prompts = {"query": "find granite rock: "}
    for kind in ("mean", "cls"):
        compare(bi_encoders.make(tmp_path / kind, kind, prompts, include_prompt=False))


@pytest.mark.skipif(not REAL.is_dir(), reason="INRANKER_TEST_MINILM names no folder of all-MiniLM-L6-v2")
def test_vectors_of_a_real_checkpoint():
    compare(REAL)


def test_small_batches_give_the_same(tmp_path):
    folder = bi_encoders.make(tmp_path / "model", "mean")
    one, many = (BiEncoder(DenseConfig(str(folder), batch_tokens=size)) for size in (8, 4096))
    np.testing.assert_allclose(one.passages(bi_encoders.TEXTS), many.passages(bi_encoders.TEXTS), atol=1e-6)


def test_what_vectors_follow_from(tmp_path):
    folder = bi_encoders.make(tmp_path / "model", "mean", {"query": "q: ", "document": "d: "})
    plain = identity(DenseConfig(str(folder)))
    assert identity(DenseConfig(str(folder), batch_tokens=64)) == plain
    assert identity(DenseConfig(str(folder), max_length=16)) != plain
    written = json.loads((folder / "config_sentence_transformers.json").read_text())
    written["prompts"]["document"] = "other: "
    (folder / "config_sentence_transformers.json").write_text(json.dumps(written))
    assert identity(DenseConfig(str(folder))) != plain


def changed(folder: Path, name: str, **values) -> None:
    path = folder / name
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, **values}))


def test_files_that_do_not_say_how_are_refused(tmp_path):
    def form(change):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        bi_encoders.make(folder, "mean")
        change(folder)
        return read_form("here", read_file(str(folder)))

    with refuses("checkpoint-pooling", "modules.json"):
        form(lambda folder: (folder / "modules.json").unlink())
    with refuses("checkpoint-pooling", "1_Pooling/config.json"):
        form(lambda folder: (folder / "1_Pooling" / "config.json").unlink())
    with refuses("checkpoint-pooling", "mean and max"):
        form(lambda folder: changed(folder, "1_Pooling/config.json", pooling_mode=["mean", "max"]))
    with refuses("checkpoint-pooling", "euclidean"):
        form(lambda folder: changed(folder, "config_sentence_transformers.json", similarity_fn_name="euclidean"))
    with refuses("checkpoint-pooling", "do_lower_case"):
        form(lambda folder: changed(folder, "sentence_bert_config.json", do_lower_case=True))
    with refuses("checkpoint-damaged", "modules.json"):
        form(lambda folder: (folder / "modules.json").write_text("["))
    with refuses("checkpoint-pooling", "Transformer, Pooling, Dense"):
        form(
            lambda folder: (folder / "modules.json").write_text(
                json.dumps([{"type": f"x.{name}", "path": ""} for name in ("Transformer", "Pooling", "Dense")])
            )
        )


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("1_Pooling/config.json", [1], "no JSON object"),
        ("config_sentence_transformers.json", "text", "no JSON object"),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}, "prompts"),
        ("sentence_bert_config.json", [1], "no JSON object"),
        ("sentence_bert_config.json", {"max_seq_length": "long"}, "max_seq_length"),
        ("sentence_bert_config.json", {"max_seq_length": -5}, "max_seq_length"),
    ],
)
def test_files_of_another_form_are_refused(name, content, fact):
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]
    files = {"modules.json": modules, "1_Pooling/config.json": {"pooling_mode_mean_tokens": True}}
    assert read_form("here", lambda each: json.dumps(files[each]) if each in files else None).pooling == "mean"
    files[name] = content
    with refuses("checkpoint-damaged", name, fact):
        read_form("here", lambda each: json.dumps(files[each]) if each in files else None)
    for path in (None, 5, "", "../1_Pooling"):
        files["modules.json"] = [modules[0], {"type": "x.Pooling", "path": path}]
        with refuses("checkpoint-pooling", "config.json"):
            read_form("here", lambda each: json.dumps(files[each]) if each in files else None)


def test_vectors_that_are_no_numbers_are_refused(tmp_path):
    encoder = BiEncoder(DenseConfig(str(bi_encoders.make(tmp_path / "model", "mean"))))
    weights = encoder._model.get_input_embeddings().weight
    weights.data[encoder._tokens(["granite"])[0][1]] = float("nan")
    assert np.isfinite(encoder.passages(["rain falls"])).all()
    for embed in (encoder.passages, encoder.queries):
        with refuses("scores-not-finite", "1 of 2 vectors", "'granite'", "retrieval.dense") as caught:
            embed(["rain falls", "granite"])
        assert isinstance(caught.value, CollectionFault), "of these texts: other targets go on"
