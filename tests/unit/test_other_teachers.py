"""Causal and encoder rerankers: which checkpoint is which, prompts, batches, bad input, and their labels in training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import DistillConfig, EvaluateConfig, ScoringConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.evaluation import runs
from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.evaluation.reranking import Reranking
from inranker_flow.evaluation.systems import System
from inranker_flow.rankers import templates
from inranker_flow.rankers.causal import CausalRanker
from inranker_flow.rankers.encoder import EncoderRanker
from inranker_flow.rankers.kinds import find_kind
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.rankers.monot5 import MonoT5Ranker
from inranker_flow.reading import WHOLE
from inranker_flow.stages.distill import distill
from inranker_flow.stages.teacher_label import teacher_label
from tests import models, teachers
from tests.refusals import refuses
from tests.unit.test_labelling import DOCUMENTS, PAIRS, QUERIES

TEACHERS = {"causal": teachers.causal, "encoder": teachers.encoder}
ANSWERS = {
    "qwen3": {"false_token": "no", "true_token": "yes"},
    "gemma2": {"false_token": "no", "true_token": "yes"},
    "metaspace": {"false_token": "▁no", "true_token": "▁yes"},
}
TEXTS = [("what is bread", "the river and the stone"), ("where is the moon", "a garden"), ("moon", "")]


def refused(checkpoint: str, **scoring: object) -> str:
    with pytest.raises(UserError) as error:
        load_ranker(checkpoint, ScoringConfig(**scoring))
    assert "\n" not in str(error.value)
    return str(error.value)


def with_config(source: str, path: Path, **changes: object) -> str:
    """The checkpoint's folder with other values in its config.json."""
    shutil.copytree(source, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    return str(path)


# --- kinds ------------------------------------------------------------------------------------------------------------


def test_the_checkpoint_says_which_ranker_it_needs():
    made = {
        models.t5(): MonoT5Ranker,
        models.t5(untied=True): MonoT5Ranker,
        "init:tiny": MonoT5Ranker,
        "demo:teacher": MonoT5Ranker,
        teachers.causal(): CausalRanker,
        teachers.causal("gpt2"): CausalRanker,
        teachers.encoder(): EncoderRanker,
        teachers.encoder("roberta", labels=2): EncoderRanker,
    }
    scoring = ScoringConfig(prompt="qwen3-reranker")
    assert {reference: type(load_ranker(reference, scoring)) for reference in made} == made


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("T5WithLMHeadModel", "monot5"),
        ("T5ForSequenceClassification", None),
        ("T5Model", "monot5"),  # what is missing in it, loading will say
        ("T5EncoderModel", None),
    ],
)
def test_forms_of_t5(tmp_path, architecture, kind):
    checkpoint = with_config(models.t5(), tmp_path / "model", architectures=[architecture])
    if kind:
        assert find_kind(checkpoint) == kind
    else:
        assert f"a {architecture} is no reranker that is understood here" in refused(checkpoint)


def test_what_is_no_reranker_is_one_line(tmp_path):
    masked = with_config(teachers.encoder(), tmp_path / "masked", architectures=["BertForMaskedLM"])
    assert f"{masked}: a BertForMaskedLM is no reranker that is understood here" in refused(masked)
    unnamed = with_config(teachers.encoder(), tmp_path / "unnamed", architectures=None)
    assert f"{unnamed}: a bert is no reranker" in refused(unnamed)
    decoder = with_config(teachers.causal(), tmp_path / "decoder", architectures=["Qwen3ForSequenceClassification"])
    assert "a Qwen3ForSequenceClassification is no reranker" in refused(decoder)


def test_a_kind_that_the_checkpoint_is_not():
    assert "a t5 checkpoint is no causal language model" in refused(models.t5(), kind="causal")
    assert "a qwen3 checkpoint; a T5 (encoder-decoder) is needed here" in refused(teachers.causal(), kind="monot5")
    assert "lacks weights of a Qwen3ForSequenceClassification" in refused(teachers.causal(), kind="encoder")
    assert "lacks weights of a BertLMHeadModel" in refused(teachers.encoder(), kind="causal", prompt="qwen3-reranker")


def test_a_decoder_with_a_head_reads_no_pairs(tmp_path):
    from transformers import AutoConfig, AutoTokenizer, Qwen3ForSequenceClassification

    config = AutoConfig.from_pretrained(teachers.causal(), num_labels=1)
    Qwen3ForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(teachers.causal()).save_pretrained(tmp_path)
    message = refused(str(tmp_path), kind="encoder")
    assert "a Qwen3ForSequenceClassification is no encoder, so it reads no pair" in message


def test_a_head_of_three_labels_is_no_rerankers():
    assert "its head has 3 labels; a reranker's has one (a score) or two" in refused(teachers.encoder(labels=3))


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("known", "missing"), [({}, "no"), ({"false_token": "n"}, "yes")])
def test_a_causal_checkpoint_without_the_words(known, missing):
    checkpoint = teachers.causal(merges=False)
    message = refused(checkpoint, **known)
    assert f"{checkpoint}: the vocabulary has no token '{missing}'" in message
    assert "set true_token and false_token" in message
    logits = load_ranker(checkpoint, ScoringConfig(false_token="n", true_token="y")).score(TEXTS)
    assert logits.shape == (3, 2) and np.isfinite(logits).all()


def test_the_words_are_those_that_were_asked_for():
    usual = load_ranker(teachers.causal(), ScoringConfig()).score(TEXTS)
    swapped = load_ranker(teachers.causal(), ScoringConfig(true_token="no", false_token="yes")).score(TEXTS)
    assert (swapped == usual[:, ::-1]).all()
    one = load_ranker(teachers.causal(), ScoringConfig(true_token="Ġmoon")).score(TEXTS)
    assert (one[:, 0] == usual[:, 0]).all() and np.abs(one[:, 1] - usual[:, 1]).max() > 1e-3


def test_the_answers_of_monot5_are_its_own():
    usual = load_ranker(models.t5(), ScoringConfig()).score(TEXTS)
    named = load_ranker(models.t5(), ScoringConfig(true_token="▁true", false_token="▁false")).score(TEXTS)
    assert (usual == named).all()


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_a_template_by_name_path_and_text_is_the_same(tmp_path):
    text = (templates.FOLDER / "qwen3-reranker.txt").read_text()
    (tmp_path / "mine.txt").write_text(text)
    expected = templates.load("qwen3-reranker", "find it")
    assert templates.load(str(tmp_path / "mine.txt"), "find it") == templates.load(text, "find it") == expected
    assert expected.before.endswith("<Instruct>: find it\n<Query>: ") and expected.between == "\n<Document>: "
    assert expected.after == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_a_slot_in_an_instruction_or_a_text_is_literal():
    found = templates.load("{instruction} {query} / {document}{answer}", "{query} {document}")
    assert found == templates.Template("{query} {document} ", " / ", "")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("no-such-template", "no readable template file; give a path or one of: bge-reranker-v2-gemma"),
        ("{document}{answer}", "needs {query}, {document} and {answer}, each once"),
        ("{query}{query}{document}{answer}", "each once"),
        ("{query}{document}", "each once"),
        ("{document}{query}{answer}", "order must be {query}, {document}, {answer}"),
        ("{query}{document}{answer}!", "and nothing after that"),
    ],
)
def test_a_template_that_cannot_be_used(prompt, message):
    found = refused(teachers.causal(), prompt=prompt)
    assert found.startswith("scoring.prompt: ") and message in found


def test_a_template_for_another_checkpoint():
    prompt = "<|user|>{query} {document}<|assistant|>{answer}"
    assert "the vocabulary has no token '<|user|>', which the prompt writes" in refused(
        teachers.causal(), prompt=prompt
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "{query} Document: {document} Relevant:{answer}",  # nothing in front of the query
        "A:\n{query}\nB:\n{document}\nIs it? {answer}",  # line ends in front of the slots, words after the document
        "MARK Query: {query}MARK{document}MARK{answer}",
        "MARK\nQuery:  {query}   Document:{document}\n\n{answer}",
    ],
)
@pytest.mark.parametrize(("kind", "mark"), [("qwen3", "<|im_end|>"), ("gemma2", "<|im_end|>"), ("metaspace", "<s>")])
def test_any_template_gives_the_logits_of_the_whole_prompt(kind, mark, prompt):
    prompt = prompt.replace("MARK", mark)
    ranker = load_ranker(teachers.causal(kind), ScoringConfig(prompt=prompt, **ANSWERS[kind]))
    expected = []
    for query, document in TEXTS[:2]:
        whole = prompt.replace("{query}", query).replace("{document}", document).replace("{answer}", "")
        expected.append(plain_logits(teachers.causal(kind), whole, list(ANSWERS[kind].values())))
    assert np.abs(ranker.score(TEXTS[:2]) - np.array(expected)).max() < 1e-5


def plain_logits(checkpoint: str, text: str, words: list[str]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with torch.no_grad():
        logits = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, -1]
    return logits[tokenizer.convert_tokens_to_ids(words)].numpy()


def test_a_text_that_the_tokenizer_would_join_with_the_template_stands_by_itself():
    """The template ends in a line end here, and the text begins with one: together they are one token."""
    ranker = load_ranker(teachers.causal(), ScoringConfig(prompt="Query?\n{query}\n\n{document}<|im_end|>{answer}"))
    [joined], [apart] = ranker.reader.tokenise(["?\n\n"]), ranker.reader.tokenise(["?\n"])
    assert len(joined) == len(apart) == 1, "the vocabulary has both"
    [ids] = ranker.reader.encode_queries(["\nmoon"])
    assert ids == ranker.reader.tokenise(["\nmoon\n\n"])[0]


# --- length -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_query_longer_than_the_limit_is_cut_and_counted(kind, caplog):
    checkpoint, long = TEACHERS[kind](), "where is the moon " * 60
    ranker = load_ranker(checkpoint, ScoringConfig(max_length=150))
    seen = []
    inner = ranker.forward

    def recording(ids, mask, in_document):
        seen.extend(zip(ids, mask, in_document, strict=True))
        return inner(ids, mask, in_document)

    ranker.forward = recording
    # A prompt of the same length leaves the suffix where it was; another end of the document shows.
    logits = ranker.score([(long, "the garden " * 80), (long, "the river " * 80), ("moon", "the river")])
    assert "1 queries leave no room for a passage and are cut" in caplog.text
    assert np.abs(logits[0] - logits[1]).max() > 1e-4, "the document is still there"
    room, after = ranker.reader.frame.room, list(ranker.reader.frame.after)
    for ids, mask, in_document in seen[:2]:
        prompt = ids[mask == 1]
        assert len(prompt) == 150 - ranker.known and prompt[-len(after) :].tolist() == after
        assert in_document[mask == 1].sum() == room - room // 2 + len(after)
        end = len(prompt) - int(in_document.sum())
        between = list(ranker.reader.frame.between)
        assert prompt[end - len(between) : end].tolist() == between


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_limit_without_room_is_refused(kind):
    checkpoint = TEACHERS[kind]()
    message = refused(checkpoint, max_length=8)
    assert "max_length: 8 leaves no room for a query and a document; use " in message
    least = int(message.split("use ")[1].split()[0])
    assert load_ranker(checkpoint, ScoringConfig(max_length=least)).score(TEXTS).shape == (3, 2)
    refused(checkpoint, max_length=least - 1)


@pytest.mark.parametrize(
    ("checkpoint", "positions"),
    [(teachers.causal, 1024), (teachers.encoder, 512), (lambda: teachers.encoder("roberta"), 512)],
)
def test_a_limit_beyond_the_checkpoints_positions_is_refused(checkpoint, positions):
    message = refused(checkpoint(), max_length=positions + 1)
    assert f"max_length {positions + 1} is more than the checkpoint's {positions} positions" in message
    long = [("moon", "stone " * 2000)]
    assert np.isfinite(load_ranker(checkpoint(), ScoringConfig(max_length=positions)).score(long)).all()


@pytest.mark.parametrize("kind", TEACHERS)
def test_the_original_codes_truncation_is_monot5s(kind):
    assert "truncation 'reference' is the original monoT5 code's" in refused(TEACHERS[kind](), truncation="reference")


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEACHERS)
@pytest.mark.parametrize("batch_tokens", [1, 64, 200, 1000])
def test_batches_keep_to_the_budget(kind, batch_tokens):
    ranker = load_ranker(TEACHERS[kind](), ScoringConfig(batch_tokens=batch_tokens))
    shapes = []
    inner = ranker.forward

    def recording(ids, mask, in_document):
        shapes.append(ids.shape)
        assert mask.sum(axis=1).min() > 0
        return inner(ids, mask, in_document)

    ranker.forward = recording
    pairs = [("moon", "stone " * length) for length in (1, 30, 2, 25, 3, 20, 4)]
    ranker.score(pairs)
    assert sum(rows for rows, _ in shapes) == len(pairs)
    assert all(rows * width <= batch_tokens or rows == 1 for rows, width in shapes)
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)


@pytest.mark.parametrize("kind", TEACHERS)
def test_too_little_memory_halves_the_batch_and_is_remembered(kind, caplog):
    import torch

    ranker = load_ranker(TEACHERS[kind](), ScoringConfig())
    pairs = [(f"moon {i}", "stone " * (1 + i % 5)) for i in range(60)]
    expected = ranker.score(pairs)
    sizes = []
    inner = ranker.forward

    def small(ids, mask, in_document):
        sizes.append(len(ids))
        if ids.size > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(ids, mask, in_document)

    ranker.forward = small
    assert np.abs(ranker.score(pairs) - expected).max() < 1e-5
    assert "out of memory: batches of" in caplog.text and ranker.batches.tokens <= 600
    sizes.clear()
    ranker.score(pairs)
    assert max(sizes) * 16 <= 600 + 16 * 8, "the second time begins with what fitted"

    def none(ids, mask, in_document):
        raise torch.OutOfMemoryError("CUDA out of memory")

    ranker.forward = none
    with refuses("out-of-memory"):
        ranker.score(pairs)


@pytest.mark.parametrize("kind", TEACHERS)
def test_each_text_is_tokenised_once(kind):
    ranker = load_ranker(TEACHERS[kind](), ScoringConfig())
    seen = []
    queries, documents = ranker.reader.encode_queries, ranker.reader.encode_documents
    ranker.reader.encode_queries = lambda texts: seen.extend(texts) or queries(texts)
    ranker.reader.encode_documents = lambda texts: seen.extend(texts) or documents(texts)
    ranker.score([(query, document) for query in ("moon", "stone") for document in ("bread", "river", "garden")])
    assert sorted(seen) == ["bread", "garden", "moon", "river", "stone"]
    assert ranker.score([]).shape == (0, 2)


@pytest.mark.parametrize("kind", TEACHERS)
def test_bfloat16_is_close_and_keeps_full_precision_logits(kind):
    pairs = [(f"{query} {i}", document) for i in range(20) for query, document in TEXTS]
    exact = load_ranker(TEACHERS[kind](), ScoringConfig(dtype="float32")).score(pairs)
    rounded = load_ranker(TEACHERS[kind](), ScoringConfig(dtype="bfloat16")).score(pairs)
    # An input passes some 60 operations, each of which rounds by 2**-9; twice that, if all err to one side.
    assert 0 < np.abs(exact - rounded).max() < 60 * 2**-8 * max(1, np.abs(exact).max())
    assert (rounded.astype(np.float32).view(np.uint32) & 0xFFFF).any(), "the last layer is computed in float32"


# --- as a teacher -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEACHERS)
def test_its_labels_teach_a_student(kind, tmp_path):
    """teacher_label on a small collection, and a step of distillation on what it wrote."""
    checkpoint = TEACHERS[kind]()
    collection = models.collection(tmp_path / "collection", DOCUMENTS)
    candidates = models.candidates(tmp_path / "candidates", QUERIES, PAIRS)
    config = TeacherConfig(checkpoint, shard_pairs=5)
    stats = teacher_label(config, collection, candidates, tmp_path / "labels")
    assert stats.pairs == len(PAIRS) and stats.tokens_per_second > 0
    rows = tables.read(tables.LABELS, tmp_path / "labels").to_pylist()
    found = {(row["query_id"], row["doc_id"]): (row["false_logit"], row["true_logit"]) for row in rows}
    expected = load_ranker(checkpoint, ScoringConfig()).score([(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS])
    assert np.abs(np.array([found[pair] for pair in PAIRS]) - expected).max() < 1e-5
    assert read_manifest(tmp_path / "labels").details["identity"]["scoring"]["kind"] == "auto"

    training = DistillConfig(
        checkpoint=models.t5(), warmup_steps=0, batch_size=len(PAIRS), max_steps=1, holdout=0.0, dropout=0.0
    )
    trained = distill(training, [tmp_path / "labels"], None, tmp_path / "student")
    # The loss of that step is the distance of the untrained student to the teacher's centred logits.
    student = load_ranker(models.t5(), ScoringConfig()).score([(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS])
    distance = np.mean((student - (expected - expected.mean(axis=1, keepdims=True))) ** 2)
    assert trained.steps == 1 and trained.final_train_loss == pytest.approx(distance, rel=1e-4)
    assert (tmp_path / "student" / "model.safetensors").is_file()


def test_evaluation_scores_with_the_teachers_own_kind():
    for checkpoint in (teachers.causal(), teachers.encoder()):
        reranking = Reranking(EvaluateConfig(latency_queries=0), [of_texts(TEXTS)], WHOLE)
        reranking.add(System("teacher", checkpoint, "", ScoringConfig()))
        logits = load_ranker(checkpoint, ScoringConfig()).score(TEXTS)
        assert reranking.scored["teacher"].scores.tolist() == (logits[:, 1] - logits[:, 0]).tolist()


def of_texts(pairs):
    """A judged set that is nothing but its pairs."""
    return JudgedSet("toy", {}, runs.number(tables.RUN.schema.empty_table()), pairs, np.arange(len(pairs)), {}, 0, {})


@pytest.mark.parametrize("kind", TEACHERS)
def test_logits_that_are_not_finite_are_named_and_not_stored(kind, tmp_path):
    from safetensors.torch import load_file, save_file

    checkpoint = with_config(TEACHERS[kind](), tmp_path / "broken")
    weights = load_file(Path(checkpoint) / "model.safetensors")
    name = next(each for each in weights if each.endswith(("norm.weight", "LayerNorm.weight")))
    weights[name] = weights[name] * float("nan")
    save_file(weights, Path(checkpoint) / "model.safetensors", metadata={"format": "pt"})
    collection = models.collection(tmp_path / "collection", DOCUMENTS)
    candidates = models.candidates(tmp_path / "candidates", QUERIES, PAIRS)
    with refuses("logits-not-finite"):
        teacher_label(TeacherConfig(checkpoint), collection, candidates, tmp_path / "labels")
    assert not (tmp_path / "labels" / "labels.parquet").exists()
