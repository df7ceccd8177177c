"""What a checkpoint says of itself: labels, families, files, code of its own; and what it does not say is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inranker_flow.config.sections import DistillConfig, GenerateConfig, ScoringConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.labelling.label_store import label_identity
from inranker_flow.preflight.checkpoints import check_checkpoint, check_student, check_teacher
from inranker_flow.preflight.generator import check_generator
from inranker_flow.rankers import families, files, labels, templates
from inranker_flow.rankers.checkpoints import load_config, load_seq2seq, load_tokenizer
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.scoring.job import Checkpoint
from tests import models, teachers

PAIRS = [("what is bread", "the river and the stone"), ("where is the moon", "a garden"), ("moon", "")]


def copy(source: str, path: Path, **changes: object) -> str:
    """The checkpoint's folder with other values in its config.json (None: without that key)."""
    shutil.copytree(source, path)
    config = {**json.loads((path / "config.json").read_text()), **changes}
    (path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return str(path)


def refused(call, *arguments: object, **named: object) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- labels -----------------------------------------------------------------------------------------------------------


def named(*names: str) -> dict[str, object]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("not_relevant", "relevant"),
        ("irrelevant", "relevant"),
        ("NON-RELEVANT", "Relevant"),
        ("notRelevant", "isRelevant"),
        ("not_entailment", "entailment"),
        ("contradiction", "ENTAILMENT"),
        ("no", "yes"),
        ("False", "True"),
        ("NEGATIVE", "POSITIVE"),
        ("neg", "pos"),
        ("0: irrelevant", "1: relevant"),
        ("not_duplicate", "duplicate"),
        ("unhelpful", "helpful"),
        ("not an answer", "an answer"),
        ("não relevante", "relevante"),
        ("0", "1"),
        ("other", "relevant"),
        ("irrelevant", "something"),
        ("neutral", "entailment"),
    ],
)
def test_names_of_two_labels_say_which_is_relevant(first, second):
    plain, reversed_ = labels.find("m", named(first, second)), labels.find("m", named(second, first))
    assert (plain.false, plain.true) == (0, 1) and (reversed_.false, reversed_.true) == (1, 0)
    assert not plain.assumed and repr(second) in plain.told


@pytest.mark.parametrize(
    "config",
    [
        named("A", "B"),
        named("relevant", "yes"),
        named("LABEL_1", "LABEL_0"),
        named("contradiction", "neutral"),
        named("relevant", "Relevant"),
        named("contradiction", "neutral", "entailment"),
        named("0", "1", "2", "3"),
        {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 1, "yes": 0}},
        {"id2label": {"1": "no", "2": "yes"}},
        {"id2label": {"0": "no", "1": "yes"}, "num_labels": 3},
        named("irrelevant"),
    ],
)
def test_what_labels_do_not_say_is_refused_with_the_setting_that_says_it(config):
    message = refused(labels.find, "org/model", config)
    assert message.startswith("org/model: ") and "scoring.true_token" in message and "scoring.false_token" in message
    size = len(config["id2label"])
    if size > 1:
        head = labels.find("org/model", config, "0", "1")
        assert {head.false, head.true} == {0, 1} or config == named("0", "1", "2", "3")


def test_settings_name_labels_or_places():
    nli = named("contradiction", "neutral", "Entailment")
    head = labels.find("m", nli, "contradiction", "entailment")
    assert (head.false, head.true) == (0, 2)
    assert labels.find("m", named("A", "B"), "", "A").true == 0
    assert labels.find("m", named("A", "B"), "A", "").true == 1
    assert "has no label 'yes'" in refused(labels.find, "m", named("A", "B"), "", "yes")
    assert "they must differ" in refused(labels.find, "m", named("A", "B"), "A", "a")
    assert "its head has 3 labels" in refused(labels.find, "m", nli, "", "entailment")


def test_labels_without_names_are_taken_by_convention_and_that_is_told(caplog):
    load_ranker(teachers.encoder("bert", 2), ScoringConfig(max_length=64))
    (line,) = [each for each in caplog.records if "taken for a cross-encoder" in each.message]
    assert line.levelname == "WARNING" and "LABEL_1 taken for relevant by convention" in line.message


def test_a_head_with_one_label_says_what_is_left_out(tmp_path, caplog):
    caplog.set_level("INFO")
    plain = load_ranker(teachers.encoder(), ScoringConfig()).score(PAIRS)
    checkpoint = copy(
        teachers.encoder(),
        tmp_path / "m",
        problem_type="regression",
        sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    )
    assert (load_ranker(checkpoint, ScoringConfig()).score(PAIRS) == plain).all()
    assert "one label, its Sigmoid left out" in caplog.text
    turned = copy(teachers.encoder(), tmp_path / "turned", **named("irrelevant"))
    assert "set scoring.false_token" in refused(load_ranker, turned, ScoringConfig())
    found = load_ranker(turned, ScoringConfig(false_token="irrelevant")).score(PAIRS)
    assert (found == plain[:, ::-1]).all()


def test_a_reversed_head_gives_the_other_order(tmp_path):
    right = load_ranker(copy(teachers.encoder("bert", 2), tmp_path / "a", **named("no", "yes")), ScoringConfig())
    wrong = load_ranker(copy(teachers.encoder("bert", 2), tmp_path / "b", **named("yes", "no")), ScoringConfig())
    assert (wrong.score(PAIRS) == right.score(PAIRS)[:, ::-1]).all()
    three = copy(teachers.encoder("bert", 3), tmp_path / "c", **named("contradiction", "neutral", "entailment"))
    scoring = ScoringConfig(false_token="contradiction", true_token="entailment")
    assert load_ranker(three, scoring).score(PAIRS).shape == (3, 2)
    refused(check_teacher, TeacherConfig(three))
    assert check_teacher(TeacherConfig(three, scoring=scoring))


# --- families ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "kind", "family"),
    [
        ("Qwen/Qwen3-Reranker-0.6B", "qwen3", "qwen3-reranker"),
        ("mixedbread-ai/mxbai-rerank-base-v2", "qwen2", "mxbai-rerank-v2"),
        ("/models/mxbai-rerank-large-v2/checkpoint-500", "qwen2", "mxbai-rerank-v2"),
        ("BAAI/bge-reranker-v2-gemma", "gemma", "bge-reranker-v2-gemma"),
    ],
)
def test_a_family_is_known_by_name_and_type(reference, kind, family):
    names = files.names_of(reference, {}, lambda name: None)
    found, why = families.find(reference, kind, names, "")
    assert found.name == family and why
    assert "is no" in refused(families.find, reference, "llama", names, "")


@pytest.mark.parametrize(
    ("card", "config", "chat"),
    [
        (b"---\nbase_model: mixedbread-ai/mxbai-rerank-base-v2\n---\n# Mine\n", {}, ""),
        (b"---\nbase_model:\n- mixedbread-ai/mxbai-rerank-large-v2\n---\n", {}, ""),
        (b"# mxbai-rerank-base-v2, fine-tuned\n", {}, ""),
        (b"", {"_name_or_path": "mixedbread-ai/mxbai-rerank-base-v2"}, ""),
        (b"", {}, "{{ x }} then provide your binary relevance judgment (0 for not relevant, 1 for relevant)."),
    ],
)
def test_a_family_is_known_by_what_the_checkpoint_says(card, config, chat):
    names = files.names_of("/models/mine", config, lambda name: card if name == "README.md" else None)
    assert families.find("/models/mine", "qwen2", names, chat)[0].name == "mxbai-rerank-v2"


@pytest.mark.parametrize("kind", ["qwen2", "gemma", "gemma2", "llama", "gpt2", "mistral"])
def test_a_causal_model_that_does_not_say_its_family_is_refused(kind):
    message = refused(families.find, "/models/mine", kind, ["mine"], "")
    for part in ("teacher.scoring.prompt", "mxbai-rerank-v2", "true_token", "false_token"):
        assert part in message


@pytest.mark.parametrize(
    "name",
    ["ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b", "zeroentropy/zerank-1-small", "Soyoung97/RankT5-base"],
)
def test_a_published_form_that_is_not_done_here_is_refused(name):
    assert "would be misread here" in refused(families.check_known, name, [name])


def test_every_family_has_its_template():
    for each in families.FAMILIES:
        assert each.phrase in templates.read(each.name)
        assert families.named(each.name) is families.named(templates.read(each.name)) is each
    assert families.named("Q: {query} {document}{answer}") is None


def as_family(tmp_path: Path, family: str, name: str) -> str:
    """A random causal reranker of that family, with the answers in its vocabulary."""
    import torch
    import transformers

    family_type = {"mxbai-rerank-v2": "Qwen2", "bge-reranker-v2-gemma": "Gemma"}[family]
    tokenizer = transformers.AutoTokenizer.from_pretrained(teachers.causal())
    tokenizer.add_tokens(["Yes", "<bos>"])
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 4, "head_dim": 12, "vocab_size": len(tokenizer), "initializer_range": 0.2}
    config = getattr(transformers, f"{family_type}Config")(**shape, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        getattr(transformers, f"{family_type}ForCausalLM")(config).save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path / name)
    return str(tmp_path / name)


def logits_of(checkpoint: str, parts: list[str], words: list[str]) -> np.ndarray:
    """The plain forward pass on parts that are tokenised apart, as the family's own code does."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    ids = [each for part in parts for each in tokenizer(part, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return logits[tokenizer.convert_tokens_to_ids(words)].double().numpy()


def test_mxbai_scores_by_its_own_prompt_and_by_one_and_zero(tmp_path, caplog):
    caplog.set_level("INFO")
    checkpoint = as_family(tmp_path, "mxbai-rerank-v2", "mxbai-rerank-base-v2")
    found = load_ranker(checkpoint, ScoringConfig()).score([("what is bread?", "the river.")])
    system = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    task = (
        "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
        "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 for "
        "not relevant, 1 for relevant).\nRelevance:"
    )
    parts = [f"{system}<|im_start|>user\n", "query: what is bread?", "\n", "document: the river.", "\n", task]
    expected = logits_of(checkpoint, [*parts, "<|im_end|>\n<|im_start|>assistant\n"], ["0", "1"])
    assert np.abs(found[0] - expected).max() < 1e-5
    (line,) = [each.message for each in caplog.records if "taken for" in each.message]
    assert "prompt mxbai-rerank-v2 (known by mxbai-rerank-base-v2), answers '0' and '1'" in line


def test_bge_gemma_scores_by_the_logit_of_yes_alone(tmp_path, caplog):
    caplog.set_level("INFO")
    checkpoint = as_family(tmp_path, "bge-reranker-v2-gemma", "bge-reranker-v2-gemma")
    found = load_ranker(checkpoint, ScoringConfig()).score([("what is bread?", "the river.")])
    task = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
        "prediction of either 'Yes' or 'No'."
    )
    parts = ["<bos>", "A: what is bread?", "\n", "B: the river.", "\n", task]
    [yes] = logits_of(checkpoint, parts, ["Yes"])
    assert np.abs(found[0] - [-yes / 2, yes / 2]).max() < 1e-5
    assert "answer 'Yes', its logit alone" in caplog.text
    assert label_identity(Checkpoint(checkpoint))["scoring"]["prompt"] == templates.read("bge-reranker-v2-gemma")


def test_one_line_says_what_a_checkpoint_is_taken_for(caplog):
    caplog.set_level("INFO")
    for checkpoint in (models.t5(), teachers.causal(), teachers.encoder()):
        caplog.clear()
        load_ranker(checkpoint, ScoringConfig())
        assert len([each for each in caplog.records if "taken for a" in each.message]) == 1
    load_ranker(models.t5(), ScoringConfig(), tell=False)
    assert "by its model type alone" not in caplog.text


def test_what_labels_depend_on_is_what_it_was(tmp_path):
    """Labels that are right are found again: the identity holds resolved values, where they are not the usual ones."""
    usual = {"prompt": templates.read("qwen3-reranker"), "true_token": "", "false_token": "", "kind": "auto"}
    for checkpoint in (models.t5(), "init:tiny", teachers.causal(), teachers.encoder("bert", 2)):
        for scoring in (ScoringConfig(), ScoringConfig(prompt="qwen3-reranker")):
            found = label_identity(Checkpoint(checkpoint, scoring=scoring))["scoring"]
            assert {key: found[key] for key in usual} == usual
    turned = copy(teachers.encoder("bert", 2), tmp_path / "m", **named("yes", "no"))
    assert label_identity(Checkpoint(turned))["scoring"]["true_token"] == "yes"


def test_monot5s_with_other_words():
    assert families.monot5_answers(["unicamp-dl/mt5-base-mmarco-v2"]) == ("▁no", "▁yes")
    assert families.monot5_answers(["unicamp-dl/ptt5-base-pt-msmarco-100k-v2"]) == ("▁não", "▁sim")
    assert families.monot5_answers(["castorini/monot5-base-msmarco-10k"]) is None


def test_an_encoder_decoder_that_is_no_t5_is_no_monot5(tmp_path):
    for kind in ("t5gemma", "bart", "m2m_100"):
        config = {"model_type": kind, "is_encoder_decoder": True, "architectures": ["XForConditionalGeneration"]}
        path = models.stub_files(tmp_path / kind, config)
        assert "is no reranker" in refused(check_teacher, TeacherConfig(str(path)))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"{", "is no JSON"),
        (b"[]", "holds a list, not an object"),
        (b"null", "holds a NoneType"),
        (b'"x"', "holds a str"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b'{"model_type": 3}', "model_type: 3"),
        (b'{"model_type": "t5", "architectures": "T5"}', "architectures: 'T5'"),
        (b'{"model_type": "no-such-type"}', "transformers knows no model type 'no-such-type'"),
        (b'{"model_type": "t5", "quantization_config": {"quant_method": "gptq"}}', "quantised (gptq)"),
    ],
)
def test_a_config_that_is_none(tmp_path, text, message):
    path = models.stub_files(tmp_path / "m", {})
    (path / "config.json").write_bytes(text)
    assert message in refused(check_checkpoint, str(path))
    assert message in refused(load_seq2seq, str(path))


@pytest.mark.parametrize("source", [models.t5, teachers.causal, teachers.encoder])
def test_a_tokenizer_that_is_larger_than_its_model(tmp_path, source):
    import transformers

    path = copy(source(), tmp_path / "m")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    rows = len(tokenizer)
    tokenizer.add_tokens(["kombucha", "sourdough", "levain"])
    tokenizer.save_pretrained(path)
    for message in (
        refused(load_ranker, path, ScoringConfig(max_length=64)),
        refused(check_teacher, TeacherConfig(path, scoring=ScoringConfig(prompt="qwen3-reranker"))),
    ):
        assert f"{rows + 3:,} tokens" in message and f"{rows:,} rows" in message


def test_a_model_may_have_more_rows_than_its_tokenizer_has_tokens(tmp_path):
    for vocabulary in ({"a": 0, "b": 1}, [["a", 0.0], ["b", 0.0]]):
        text = json.dumps({"model": {"vocab": vocabulary}, "added_tokens": [{"id": 2, "content": "c"}]}).encode()
        assert files.highest_token({"tokenizer.json": text}.get) == 2
    assert files.highest_token({"vocab.txt": b"a\nb\nc\n", "added_tokens.json": b'{"d": 7}'}.get) == 7
    assert files.highest_token({"spiece.model": b"..."}.get) is None
    files.check_size("m", 32_100, 32_128)
    real = models.DATA / "tokenizers" / "t5"
    if real.is_dir():
        assert files.highest_token(files.reader(real)) == 32_099


def test_weights_that_are_not_there_or_cut_off(tmp_path):
    names = {"none": [], "gguf": ["model.gguf"], "adapter": ["adapter_config.json"]}
    said = {"none": "holds no weights", "gguf": "model.gguf is of another format", "adapter": "holds an adapter alone"}
    for name, more in names.items():
        path = Path(copy(models.t5(), tmp_path / name))
        (path / "model.safetensors").unlink()
        for each in more:
            (path / each).write_text("{}")
        assert said[name] in refused(check_checkpoint, str(path))
        assert said[name] in refused(load_seq2seq, str(path))
    whole = (Path(models.t5()) / "model.safetensors").read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 10\n"
    for number, content in enumerate((whole[:-100], whole[:2000], b"", b"\0" * 100, pointer, whole + b"more")):
        path = Path(copy(models.t5(), tmp_path / f"cut-{number}"))
        (path / "model.safetensors").write_bytes(content)
        assert "model.safetensors" in refused(check_checkpoint, str(path))
        assert "model.safetensors" in refused(load_seq2seq, str(path))


def test_an_index_that_names_what_is_not_there(tmp_path):
    path = Path(copy(models.t5(), tmp_path / "m"))
    shutil.move(path / "model.safetensors", path / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    for call in (check_checkpoint, load_seq2seq):
        assert "names model-00002-of-00002.safetensors, which the folder lacks" in refused(call, str(path))
    (path / "model.safetensors.index.json").write_text("[]")
    assert "not an object" in refused(check_checkpoint, str(path))


def test_weights_as_pytorch_wrote_them_and_in_half_precision(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    expected = load_ranker(models.t5(), ScoringConfig()).score(PAIRS)
    path = Path(copy(models.t5(), tmp_path / "bin"))
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save(weights, path / "pytorch_model.bin")
    assert check_checkpoint(str(path))
    assert (load_ranker(str(path), ScoringConfig()).score(PAIRS) == expected).all()
    half = Path(copy(models.t5(), tmp_path / "half"))
    save_file({k: v.half() for k, v in weights.items()}, half / "model.safetensors", metadata={"format": "pt"})
    assert np.abs(load_ranker(str(half), ScoringConfig()).score(PAIRS) - expected).max() < 0.1


def test_a_head_of_another_size_than_config_says(tmp_path):
    path = copy(teachers.encoder("bert", 1), tmp_path / "m", **named("no", "yes"))
    assert path in refused(load_ranker, path, ScoringConfig())


@pytest.mark.parametrize("source", [models.t5, teachers.causal, teachers.encoder])
def test_a_tokenizer_that_is_not_there_or_damaged(tmp_path, source):
    """transformers would make up an empty one, which reads every text alike."""
    path = Path(copy(source(), tmp_path / "m"))
    (path / "tokenizer.json").write_text("{]")
    scoring = ScoringConfig(prompt="qwen3-reranker")
    for call in (check_checkpoint, load_tokenizer):
        assert "tokenizer.json is no JSON" in refused(call, str(path))
    (path / "tokenizer.json").unlink()
    assert "holds no tokenizer" in refused(check_checkpoint, str(path))
    assert "holds no tokenizer" in refused(load_ranker, str(path), scoring)


# --- code of its own --------------------------------------------------------------------------------------------------


def test_code_that_a_checkpoint_brings_is_never_run(tmp_path, monkeypatch):
    """Neither is anybody asked: there is no terminal, and a question would be an error."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
    for name, changes in {
        "config": {"model_type": "xbert", "auto_map": {"AutoConfig": "configuration_x.XConfig"}},
        "list": {"model_type": "new", "auto_map": {"AutoModel": ["modeling_x.X", None]}},
        "none": {"model_type": None, "auto_map": {"AutoModelForCausalLM": "org/other--modeling_x.X"}},
    }.items():
        path = Path(copy(teachers.encoder(), tmp_path / name, architectures=["XForSequenceClassification"], **changes))
        for module in ("configuration_x", "modeling_x"):
            (path / f"{module}.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
        for call in (check_checkpoint, load_config):
            assert "brings code of its own (auto_map: " in refused(call, str(path))
        assert "which is never run here" in refused(check_teacher, TeacherConfig(str(path)))
        refused(check_student, DistillConfig(checkpoint=str(path)))
        refused(check_generator, GenerateConfig(checkpoint=str(path)))
    assert not (tmp_path / "was-run").exists()


def test_a_type_that_transformers_knows_is_loaded_without_the_code_it_brings(tmp_path):
    changes = {"auto_map": {"AutoConfig": "configuration_x.X", "AutoModelForSequenceClassification": "modeling_x.X"}}
    path = Path(copy(teachers.encoder(), tmp_path / "m", **changes))
    for module in ("configuration_x", "modeling_x"):
        (path / f"{module}.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    assert "is not run: transformers knows bert" in check_teacher(TeacherConfig(str(path)))
    expected = load_ranker(teachers.encoder(), ScoringConfig()).score(PAIRS)
    assert (load_ranker(str(path), ScoringConfig()).score(PAIRS) == expected).all()
    assert not (tmp_path / "was-run").exists()


def test_weights_of_code_of_its_own_under_a_known_type(tmp_path):
    """As jina-reranker-v2's are: an XLM-R by name, with matrices of its own."""
    from safetensors.torch import load_file, save_file

    path = Path(copy(teachers.encoder(), tmp_path / "m", auto_map={"AutoConfig": "configuration_x.X"}))
    weights = load_file(path / "model.safetensors")
    renamed = {name.replace(".query.", ".Wqkv."): value for name, value in weights.items()}
    save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})
    assert "its weights are those of code of its own" in refused(load_ranker, str(path), ScoringConfig())


def test_a_tokenizer_with_code_of_its_own(tmp_path):
    path = Path(copy(teachers.encoder(), tmp_path / "m"))
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "XTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "tokenization_x.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    try:
        load_tokenizer(str(path))
    except UserError as error:
        assert "code of its own" in str(error)
    assert not (tmp_path / "was-run").exists()


def test_the_list_of_model_types_is_that_of_the_locked_transformers():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert files.model_types() == set(CONFIG_MAPPING_NAMES), "write rankers/model_types.txt anew"


# --- what may be what -------------------------------------------------------------------------------------------------


def test_a_student_or_teacher_without_the_label_words():
    bare = models.t5(tokenizer=models.tokenizer_folder(("true",)))
    assert "no token '▁false'" in refused(check_student, DistillConfig(checkpoint=bare))
    assert "no token '▁false'" in refused(check_teacher, TeacherConfig(bare))
    assert check_teacher(TeacherConfig(bare, scoring=ScoringConfig(false_token="▁river")))


def test_an_encoder_writes_no_queries():
    assert "writes nothing" in refused(check_generator, GenerateConfig(checkpoint=teachers.encoder()))
    for make in (models.t5, models.causal):
        assert check_generator(GenerateConfig(checkpoint=make()))


@pytest.mark.parametrize("architecture", ["BertModel", "XLMRobertaModel", "T5EncoderModel", "BertForMaskedLM"])
def test_what_gives_no_score_of_a_pair(tmp_path, architecture):
    config = {"architectures": [architecture], "is_encoder_decoder": architecture.startswith("T5")}
    path = models.stub_files(tmp_path / "m", config)
    assert f"a {architecture} is no reranker" in refused(check_teacher, TeacherConfig(str(path)))


def test_a_bi_encoder_made_of_a_causal_model(tmp_path):
    """As Qwen3-Embedding is: config.json looks like a reranker's."""
    path = Path(copy(teachers.causal(), tmp_path / "m"))
    modules = [{"idx": 0, "type": "sentence_transformers.models.Transformer"}]
    modules.append({"idx": 1, "type": "sentence_transformers.models.Pooling"})
    (path / "modules.json").write_text(json.dumps(modules))
    for message in (
        refused(check_teacher, TeacherConfig(str(path))),
        refused(load_ranker, str(path), ScoringConfig()),
    ):
        assert "modules.json says that it gives vectors" in message
