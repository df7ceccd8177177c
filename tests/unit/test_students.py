"""Students of every kind: what a checkpoint becomes, its head and layers, training, and that all read alike."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from inranker_flow import reading
from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import DistillConfig, ScoringConfig
from inranker_flow.distillation import optimizer
from inranker_flow.distillation.data import load_examples
from inranker_flow.distillation.losses import mse
from inranker_flow.distillation.train import Trainer
from inranker_flow.errors import UserError
from inranker_flow.preflight.checkpoints import check_student
from inranker_flow.rankers.kinds import encoder_types, starting_kind
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.reranker import Reranker
from inranker_flow.stages.distill import distill
from inranker_flow.students import layers
from inranker_flow.students.base import depth
from inranker_flow.students.loading import load_student
from tests import models, starts, teachers
from tests.refusals import refuses
from tests.unit.test_distillation import training_set

CONFIG = DistillConfig(
    learning_rate=3e-3, warmup_steps=4, batch_size=16, epochs=100, max_steps=40, max_length=64, dropout=0.0, holdout=0.2,
    evaluate_every=20,
)  # fmt: skip
PAIRS = [
    ("what is bread", "the river and the stone"),
    ("where is the moon", "a garden"),
    ("how long does it take", "bread " * 90),
    ("moon " * 80, "a stone in the garden"),
    ("moon", ""),
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return training_set(tmp_path_factory.mktemp("toy") / "labels")


# --- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "monot5"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "encoder"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "encoder"),
        ({"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"]}, "encoder"),
        ({"model_type": "electra", "architectures": ["ElectraForPreTraining"]}, "encoder"),
        ({"model_type": "deberta-v2", "architectures": None}, "encoder"),
        ({"model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"]}, "encoder"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}, "causal"),
        ({"model_type": "bart", "architectures": ["BartModel"], "is_encoder_decoder": True}, None),
        ({"model_type": "t5", "architectures": ["T5EncoderModel"], "is_encoder_decoder": True}, None),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"]}, None),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, None),
    ],
)
def test_the_config_says_what_a_checkpoint_becomes(config, kind):
    if kind:
        assert starting_kind("there", config) == kind
    else:
        with refuses("checkpoint-kind", "there", str(config["architectures"][0])):
            starting_kind("there", config)


def test_the_list_of_encoders_is_that_of_the_locked_transformers():
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    assert encoder_types() == set(MODEL_FOR_MASKED_LM_MAPPING_NAMES), "write rankers/encoder_types.txt anew"


@pytest.mark.parametrize("name", starts.ALL)
def test_preflight_says_the_kind_in_one_line(name):
    reference, kind = starts.ALL[name]()
    assert check_student(DistillConfig(checkpoint=reference, max_length=64)).endswith(f"a student of the kind {kind}")


def test_preflight_refuses_what_training_would_refuse(tmp_path):
    models.stub_files(
        tmp_path / "decoder", {"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"]}
    )
    long = teachers.encoder()
    for code, config in (
        ("checkpoint-kind", DistillConfig(checkpoint=str(tmp_path / "decoder"))),
        ("setting-value", DistillConfig(checkpoint=long, max_length=513)),
        ("setting-conflict", DistillConfig(checkpoint=long, truncation="reference")),
        ("checkpoint-labels", DistillConfig(checkpoint=starts.encoder(labels=("near", "far")))),
        ("checkpoint-tokens", DistillConfig(checkpoint=models.t5(tokenizer=models.tokenizer_folder(("true",))))),
    ):
        with refuses(code):
            check_student(config)
        with pytest.raises(UserError):
            load_student(config.checkpoint, config)


# --- what comes out ---------------------------------------------------------------------------------------------------


@cache
def trained(name: str, folder: Path, **changes: object) -> tuple[Path, Path, Trainer]:
    """A student that was trained a little: its folder, its labels, and the trainer, whose student it still holds."""
    reference, _ = starts.ALL[name]()
    config = replace(CONFIG, checkpoint=reference, **changes)
    labels = training_set(folder / "labels")
    student = load_student(reference, config)
    trainer = Trainer(config, load_examples([labels], student.reader, config.centre, config.seed), student)
    distill(config, [labels], None, folder / "model")
    return folder / "model", labels, trainer


@pytest.mark.parametrize("name", starts.ALL)
def test_a_student_learns_and_its_folder_scores_as_it_was_measured(name, tmp_path):
    """The held-out loss of the best step is that of the written folder, read by the scorer."""
    model, _, trainer = trained(name, tmp_path)
    record = json.loads((model / "training.json").read_text())
    best = min(record["looks"][1:], key=lambda look: look["loss"])
    assert best["loss"] < record["looks"][0]["loss"]
    kind = starts.ALL[name]()[1]
    assert reading.of_folder(model).kind == kind == record["reads"]["kind"]
    ranker = load_ranker(str(model), reading.scoring_of(model, ScoringConfig()))
    rows = trainer.heldout
    logits = ranker.job(trainer.examples.prompts).score(rows)
    written = mse(
        torch.from_numpy(logits).float(), torch.from_numpy(trainer.examples.teacher[rows]), trainer.examples.sizes(rows)
    )
    assert written.item() == pytest.approx(best["loss"], rel=1e-3)


@pytest.mark.parametrize("name", starts.ALL)
def test_training_scores_the_ids_that_scoring_scores(name, tmp_path):
    """Ids are equal, and logits to 5e-6 in fp32: of training, of the written folder, and of serving."""
    reference, _ = starts.ALL[name]()
    config = replace(CONFIG, checkpoint=reference)
    student = load_student(reference, config)
    labels = models.collection(
        tmp_path / "labels",
        {f"d{number}": document.strip() for number, (_, document) in enumerate(PAIRS) if document},
        {f"q{number}": ("synthetic", query) for number, (query, _) in enumerate(PAIRS)},
        {(f"q{number}", f"d{number}"): (0.0, 1.0) for number, (_, document) in enumerate(PAIRS) if document},
    )
    pairs = [(query, document.strip()) for query, document in PAIRS if document]
    examples = load_examples([labels], student.reader, True, 0)
    rows = np.arange(len(pairs))
    scorer = student.scorer(False).eval()
    batch = examples.batch(rows, 8)
    with torch.no_grad():
        taught = scorer(*map(torch.from_numpy, batch.inputs)).double().numpy()
    student.finish()
    student.save(tmp_path / "model")
    (tmp_path / "model" / reading.FILENAME).write_text(json.dumps(vars(student.reads)))
    ranker = load_ranker(str(tmp_path / "model"), reading.scoring_of(tmp_path / "model", ScoringConfig()))
    for ours, theirs in zip(ranker.prepare_pairs(pairs)._prompts.inputs(rows, 8), batch.inputs, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(ranker.score(pairs), taught, atol=5e-6, rtol=0)
    served = Reranker(tmp_path / "model").score(pairs)
    np.testing.assert_allclose(served, taught[:, 1] - taught[:, 0], atol=1e-5, rtol=0)


def test_phase_2_goes_on_from_phase_1(tmp_path, toy):
    for name in ("modernbert", "llama"):
        reference, kind = starts.ALL[name]()
        config = replace(CONFIG, max_steps=2)
        distill(replace(config, checkpoint=reference), [toy], None, tmp_path / name / "phase1")
        distill(replace(config, learning_rate=1e-12), [toy], tmp_path / name / "phase1", tmp_path / name / "phase2")
        scores = [Reranker(tmp_path / name / phase).score(PAIRS) for phase in ("phase1", "phase2")]
        np.testing.assert_allclose(*scores, atol=1e-5)
        record = json.loads((tmp_path / name / "phase2" / "training.json").read_text())
        assert record["reads"]["kind"] == kind and len(record["lineage"]) == 1


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16-weights"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_lower_precision_hands_on_float32(name, precision, tmp_path):
    model, _, _ = trained(name, tmp_path, precision=precision, max_steps=20, freeze_embeddings=True)
    from safetensors.torch import load_file

    start, end = (load_file(Path(folder) / "model.safetensors") for folder in (starts.ALL[name]()[0], model))
    assert {each.dtype for each in end.values()} == {torch.float32}
    embedding = next(key for key in end if "word_embeddings" in key or "embed_tokens" in key)
    torch.testing.assert_close(end[embedding], start[embedding], atol=0, rtol=0)
    record = json.loads((model / "training.json").read_text())
    assert record["looks"][-1]["loss"] < record["looks"][0]["loss"] and record["precision"] == precision


# --- an encoder's head ------------------------------------------------------------------------------------------------


def test_a_head_is_made_where_there_is_none_and_the_seed_decides_it(caplog):
    reference = starts.encoder("bert", head=False)
    with caplog.at_level("INFO"):
        first, again = (load_student(reference, CONFIG).model.classifier.weight for _ in range(2))
    other = load_student(reference, replace(CONFIG, seed=1)).model.classifier.weight
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert "has no reranker's head, so one is made with seed 0" in caplog.text


@pytest.mark.parametrize(
    ("labels", "sign"), [(("irrelevant", "relevant"), 1), (("relevant", "irrelevant"), -1), (("score",), 1)]
)
def test_a_head_of_two_labels_becomes_one_with_the_same_margin(labels, sign, tmp_path):
    reference = starts.encoder("bert", labels=labels)
    student = load_student(reference, replace(CONFIG, max_length=512))
    before = load_ranker(reference, ScoringConfig()).score(PAIRS)
    student.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert list(config["id2label"]) == ["0"] and student.model.classifier.out_features == 1
    after = load_ranker(str(tmp_path), ScoringConfig()).score(PAIRS)
    np.testing.assert_allclose(after[:, 1] - after[:, 0], before[:, 1] - before[:, 0], atol=1e-5)
    assert np.abs(after.sum(1)).max() == 0
    assert np.abs(before[:, 1] - before[:, 0]).max() > 0.01 and sign in (1, -1)


def test_the_papers_loss_on_one_logit_is_a_quarter_of_the_squared_difference():
    scores, wanted = torch.randn(7, 1), torch.randn(7, 1)
    student, teacher = (torch.cat([-each / 2, each / 2], 1) for each in (scores, wanted))
    loss = mse(student, teacher, np.array([7]))
    torch.testing.assert_close(loss, (scores - wanted).square().mean() / 4)


# --- layers, dropout, rates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t5", "bert", "deberta", "modernbert", "llama"])
def test_some_layers_of_a_deeper_checkpoint(name, tmp_path):
    reference, _ = starts.ALL[name](layers=4)
    student = load_student(reference, replace(CONFIG, layers=(0, 2)))
    whole = load_student(reference, CONFIG).model.state_dict()
    student.finish()
    student.save(tmp_path)
    again = load_student(str(tmp_path), CONFIG).model
    assert layers.total(again.config) == 2
    for key, weight in again.state_dict().items():
        source = key
        for stack in (".layer.", ".layers.", ".block."):
            source = source.replace(f"{stack}1.", f"{stack}2.") if f"{stack}1." in source else source
        if name == "t5":  # whose blocks have layers of their own
            source = key.replace("block.1.", "block.2.")
        assert torch.equal(weight, whole[source]), key


def test_layers_that_are_not_there(tmp_path):
    for asked in ((5,), (1, 2), (0, 4), (0, 0)):
        with refuses("setting-value", "layers", "0 to 3"):
            load_student(starts.ALL["bert"](layers=4)[0], replace(CONFIG, layers=asked))
    assert [layers.spread(count, 6) for count in (1, 2, 3, 6)] == [(0,), (0, 5), (0, 2, 5), (0, 1, 2, 3, 4, 5)]
    assert parse(DistillConfig, {"layers": 3}, "phase1").layers == (3,)
    assert parse(DistillConfig, {"layers": [0, 2]}, "phase1").layers == (0, 2)


@pytest.mark.parametrize("name", starts.ALL)
def test_dropout_is_the_configurations(name):
    reference, _ = starts.ALL[name]()
    for rate in (0.0, 0.3):
        model = load_student(reference, replace(CONFIG, dropout=rate)).model
        found = {each.p for each in model.modules() if isinstance(each, torch.nn.Dropout)}
        assert found <= {rate}, "every dropout of the model"


def test_each_layer_has_its_rate():
    model = load_student(starts.ALL["bert"](layers=2)[0], CONFIG).model
    weights = optimizer.trained(model, freeze_embeddings=False)
    made = optimizer.adamw(weights, replace(CONFIG, layer_decay=0.5, weight_decay=0.1), 2, torch.device("cpu"))
    optimizer.set_rate(made, 1.0)
    rates = {
        id(weight): (group["lr"], group["weight_decay"]) for group in made.param_groups for weight in group["params"]
    }
    for name, weight in weights.items():
        place = depth(name, 2)
        expected = {0: 0.125, 1: 0.25, 2: 0.5, 3: 1.0}[place]
        assert rates[id(weight)] == (expected, 0.1 if weight.dim() > 1 else 0.0), name
    places = {depth(name, 2) for name in weights}
    assert places == {0, 1, 2, 3}
