"""Checkpoints and the monoT5 ranker, on small real T5 models."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers import devices
from inranker_flow.rankers.batches import Batches
from inranker_flow.rankers.checkpoints import (
    checkpoint_identity,
    label_token_ids,
    load_generator,
    load_seq2seq,
    load_tokenizer,
)
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.rankers.monot5_prompt import Renderer
from tests import models
from tests.refusals import refuses

PAIRS = [("where is the bridge", "the bridge is in the north"), ("what is copper", "a jacket"), ("what is copper", "")]


# --- references -------------------------------------------------------------------------------------------------------


def test_init_is_the_same_in_every_process():
    script = """
from inranker_flow.rankers.checkpoints import load_seq2seq
import torch
torch.rand(7)
model, _ = load_seq2seq("init:tiny?seed=4")
print(model.shared.weight.double().sum().item(), model.encoder.block[1].layer[1].DenseReluDense.wi.weight[3, 5].item())
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    here, _ = load_seq2seq("init:tiny?seed=4")
    total, one = map(float, ended.stdout.split())
    assert one == here.encoder.block[1].layer[1].DenseReluDense.wi.weight[3, 5].item()
    assert total == here.shared.weight.double().sum().item()
    other, _ = load_seq2seq("init:tiny?seed=5")
    assert other.shared.weight.double().sum().item() != total


def test_init_leaves_the_random_state_alone():
    import torch

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_seq2seq("init:tiny?seed=4")
    assert torch.equal(torch.rand(3), expected)


def test_init_takes_any_tokenizer():
    folder = models.tokenizer_folder()
    model, tokenizer = load_seq2seq(f"init:mini?tokenizer={folder}&seed=1")
    assert model.config.vocab_size == len(tokenizer) == len(load_tokenizer(str(folder)))
    assert model.config.d_model == 256


def test_init_with_the_real_vocabulary_has_its_label_ids():
    _, tokenizer = load_seq2seq(f"init:tiny?tokenizer={models.real_t5_tokenizer()}")
    assert label_token_ids(tokenizer, "▁false", "▁true") == (6136, 1176)


@pytest.mark.parametrize("name", ["teacher", "student", "generator"])
def test_the_demo_models_load(name):
    model, tokenizer = load_seq2seq(f"demo:{name}")
    assert not model.training and model.config.vocab_size == len(tokenizer)
    assert label_token_ids(tokenizer, "▁false", "▁true") == tuple(tokenizer.convert_tokens_to_ids(["▁false", "▁true"]))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("./nowhere/model", "./nowhere/model: no such checkpoint folder"),
        ("/nowhere/model", "/nowhere/model: no such checkpoint folder"),
        ("two words", "two words: no such checkpoint folder"),
        ("demo:professor", "demo:professor: no such demo model; there is demo:generator"),
        ("init:huge", "init:huge: no size 'huge'; there is tiny"),
        ("init:tiny?speed=1", "'speed=1' is not understood"),
        ("init:tiny?seed=one", "seed 'one' is not a whole number"),
        ("init:tiny?tokenizer=/nowhere", "/nowhere: no such checkpoint folder"),
    ],
)
def test_a_reference_that_leads_nowhere(reference, message):
    with pytest.raises(UserError) as refused:
        load_seq2seq(reference)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_without_a_checkpoint(tmp_path):
    with refuses("checkpoint-incomplete", "config.json"):
        load_seq2seq(str(tmp_path))


def test_an_unreachable_hub_is_asked_once_and_named():
    """In a process of its own, because the client reads its settings once. A hub that hangs up counts its callers: the
    hub's own client would ask again and again, for each file."""
    script = """
from inranker_flow.errors import UserError
from inranker_flow.rankers.checkpoints import load_seq2seq
try:
    load_seq2seq("castorini/monot5-3b-msmarco-10k", "main")
except UserError as error:
    print(error)
"""
    import os
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as hub:
        callers: list[object] = []

        def hang_up() -> None:
            while True:
                try:
                    connection, address = hub.accept()
                except OSError:
                    return
                callers.append(address)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        address = f"http://127.0.0.1:{hub.getsockname()[1]}"
        env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_HOME": str(models.folder())}
        ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    message = ended.stdout.strip()
    # One question, which its HTTP library may put once more; the hub's client would ask five times for each file.
    assert 1 <= len(callers) < 5
    assert message.startswith("castorini/monot5-3b-msmarco-10k: neither a local folder nor to be had from the Hugging")
    assert "\n" not in message


def test_missing_weights_are_refused_not_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    model, tokenizer = load_seq2seq(models.t5())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    kept = {
        key: value for key, value in load_file(tmp_path / "model.safetensors").items() if "decoder.block.1" not in key
    }
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights of a T5ForConditionalGeneration: decoder\.block\.1"):
        load_seq2seq(str(tmp_path))


def test_a_damaged_file_is_one_line(tmp_path):
    model, tokenizer = load_seq2seq(models.t5())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with refuses("checkpoint-damaged"):
        load_seq2seq(str(tmp_path))


def test_a_causal_checkpoint_is_no_ranker_but_a_generator():
    with pytest.raises(UserError, match=r"a llama checkpoint; a T5 \(encoder-decoder\) is needed here"):
        load_seq2seq(models.causal())
    model, _ = load_generator(models.causal())
    assert type(model).__name__ == "LlamaForCausalLM"


def test_dtype_and_dropout_are_as_asked(tmp_path):
    import torch

    model, tokenizer = load_seq2seq(models.t5(), dtype=torch.bfloat16)
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # transformers 5 takes the file's dtype unless told otherwise: training would silently be in bfloat16.
    model, _ = load_seq2seq(str(tmp_path), dropout=0.3)
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert {each.p for each in model.modules() if isinstance(each, torch.nn.Dropout)} == {0.3}
    assert load_seq2seq(models.t5())[0].config.dropout_rate == 0.1


def test_identity_follows_content(tmp_path):
    model, tokenizer = load_seq2seq(models.t5())
    model.save_pretrained(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "a")
    first = checkpoint_identity(str(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert checkpoint_identity(str(tmp_path / "b"), "whatever") == first
    with (tmp_path / "b" / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert checkpoint_identity(str(tmp_path / "b")) != first
    assert checkpoint_identity("demo:teacher") != checkpoint_identity("demo:student")
    assert checkpoint_identity("owner/model", "abc") == "owner/model@abc"
    assert checkpoint_identity("init:tiny?seed=1", "abc") == "init:tiny?seed=1@abc"


# --- label tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["true", "false"])
def test_a_checkpoint_without_label_tokens(missing):
    known = ("false", "true")
    tokenizer = models.tokenizer_folder(tuple(each for each in known if each != missing))
    checkpoint = models.t5(tokenizer=tokenizer, seed=len(missing))
    with pytest.raises(UserError) as refused:
        load_ranker(checkpoint, ScoringConfig())
    assert f"no token '▁{missing}'" in str(refused.value) and checkpoint in str(refused.value)
    assert load_ranker(checkpoint, ScoringConfig(true_token="▁moon", false_token="▁stone")).score(PAIRS).shape == (3, 2)


def test_label_tokens_must_differ():
    with refuses("setting-conflict"):
        load_ranker(models.t5(), ScoringConfig(true_token="▁false"))


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_float64_in_input_order():
    ranker = load_ranker(models.t5(), ScoringConfig())
    logits = ranker.score(PAIRS)
    assert logits.shape == (3, 2) and logits.dtype == np.float64 and np.isfinite(logits).all()
    assert ranker.score(PAIRS[::-1]) == pytest.approx(logits[::-1], abs=1e-6)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    assert (ranker.score(PAIRS) == logits).all()
    assert ranker.score([]).shape == (0, 2)
    assert ranker.parameters == sum(each.numel() for each in load_seq2seq(models.t5())[0].parameters())


def test_each_text_is_tokenised_once():
    ranker = load_ranker(models.t5(), ScoringConfig())
    seen = []
    inner = ranker.renderer._encode

    def counting(texts):
        seen.extend(texts)
        return inner(texts)

    ranker.renderer._encode = counting
    ranker.score([(query, document) for query in ("moon", "stone") for document in ("bread", "river", "garden")])
    assert sorted(seen) == sorted(
        [
            *("Query: moon Document:", "Query: stone Document:"),
            *(f"Document: {each} Relevant:" for each in ("bread", "river", "garden")),
        ]
    )


@pytest.mark.parametrize("batch_tokens", [1, 40, 64, 1000])
def test_batches_keep_to_the_budget(batch_tokens):
    ranker = load_ranker(models.t5(), ScoringConfig(batch_tokens=batch_tokens))
    shapes = []
    inner = ranker.forward

    def recording(ids, mask):
        shapes.append(ids.shape)
        assert mask.sum(axis=1).min() > 0
        return inner(ids, mask)

    ranker.forward = recording
    pairs = [("moon", "stone " * length) for length in (1, 30, 2, 25, 3, 20, 4)]
    logits = ranker.score(pairs)
    assert sum(rows for rows, _ in shapes) == len(pairs)
    assert all(rows * width <= batch_tokens or rows == 1 for rows, width in shapes)
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)
    assert logits == pytest.approx(load_ranker(models.t5(), ScoringConfig()).score(pairs), abs=1e-5)


@pytest.mark.parametrize(
    "error",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate",
    ],
    ids=["gpu", "cpu"],
)
def test_out_of_memory_halves_the_batches_from_then_on(error, caplog):
    """Memory for 100 tokens: batches of 1000 are halved until they fit, the later ones are planned to fit."""
    ranker = load_ranker(models.t5(), ScoringConfig(batch_tokens=1000))
    pairs = [(f"moon {number}", "stone " * 10) for number in range(60)]
    expected = ranker.score(pairs)
    shapes = []
    inner = ranker.forward

    def limited(ids, mask):
        shapes.append(ids.shape)
        if ids.size > 100:
            raise RuntimeError(f"{error}\nmore lines")
        return inner(ids, mask)

    ranker.forward = limited
    assert ranker.score(pairs) == pytest.approx(expected, abs=1e-5)
    assert ranker.batches.tokens <= 100 and "out of memory: batches of" in caplog.text
    failed = len([shape for shape in shapes if np.prod(shape) > 100])
    assert 1 < failed < 10
    assert ranker.score(pairs) == pytest.approx(expected, abs=1e-5)
    assert failed == len([shape for shape in shapes if np.prod(shape) > 100]), "what was learnt is remembered"


def test_out_of_memory_with_one_prompt_is_one_clear_line():
    ranker = load_ranker(models.t5(), ScoringConfig())

    def never(ids, mask):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines")

    ranker.forward = never
    with pytest.raises(UserError) as refused:
        ranker.score([("moon", "stone")] * 5)
    assert "out of memory with a single prompt of 6 tokens: lower scoring.max_length" in str(refused.value)
    assert "\n" not in str(refused.value) and "Tried to allocate 2 GiB" in str(refused.value)


def test_other_errors_of_the_device_are_not_taken_for_lack_of_memory():
    def broken(rows):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        Batches(1000, 8).run(np.arange(4), 10, broken)


@pytest.mark.parametrize("pad_to", [1, 8, 16])
def test_batches_hold_each_row_once_and_little_padding(pad_to):
    lengths = np.random.default_rng(0).integers(5, 300, 2_000)
    batches = Batches(2048, pad_to)
    parts = list(batches.split(lengths))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(lengths)))
    computed = sum(len(part) * batches.width(int(lengths[part].max())) for part in parts)
    assert lengths.sum() / computed > {1: 0.99, 8: 0.96, 16: 0.93}[pad_to]
    assert all(len(part) * batches.width(int(lengths[part].max())) <= 2048 for part in parts)


def test_a_query_that_is_too_long_is_cut_and_counted(caplog):
    ranker = load_ranker(models.t5(), ScoringConfig(max_length=32))
    long = "moon " * 40
    job = ranker.prepare([long, "stone"], ["bread", "river " * 30], np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    assert job.cut_queries == 1 and job.lengths.tolist() == [32, 32, 6, 32]
    assert "1 queries leave no room for a passage and are cut" in caplog.text
    # A passage fits in beside it, so another one gets another score.
    logits = job.score(np.arange(4))
    assert np.abs(logits[0] - logits[1]).max() > 1e-4


# --- the closed form and the plain forward ------------------------------------------------------------------------------


def test_the_settings_of_the_forward_pass(caplog):
    """Both give the same scores; which one it was is in the log."""
    with caplog.at_level("INFO", "inranker_flow"):
        fast = load_ranker(models.t5(), ScoringConfig()).score(PAIRS)
        assert "closed-form forward pass" in caplog.text and "plain" not in caplog.text
        plain = load_ranker(models.t5(), ScoringConfig(forward="reference")).score(PAIRS)
        assert "plain forward pass" in caplog.text
    assert 0 < np.abs(fast - plain).max() < 5e-6


def test_a_model_without_closed_form_takes_its_own_forward(tmp_path, caplog):
    """umT5 has a position bias in each layer; its family is none that the closed form knows."""
    import torch
    from transformers import UMT5Config, UMT5ForConditionalGeneration

    tokenizer = load_tokenizer(str(models.tokenizer_folder()))
    config = UMT5Config(vocab_size=len(tokenizer), d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4)
    torch.manual_seed(0)
    UMT5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ranker = load_ranker(str(tmp_path), ScoringConfig())
    assert "the fast forward pass is not for a UMT5ForConditionalGeneration: taking the plain one" in caplog.text
    model, _ = load_seq2seq(str(tmp_path))
    ids = torch.tensor([ranker.renderer.render(*PAIRS[0])])
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=torch.zeros(1, 1).long())
    expected = whole.logits[0, 0, list(label_token_ids(tokenizer, "▁false", "▁true"))]
    assert ranker.score(PAIRS)[0] == pytest.approx(expected.numpy(), abs=1e-5)


# --- texts whose tokens depend on their neighbours ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def across_words(tmp_path_factory):
    """A tokenizer with pieces that reach over a space, as sentencepiece makes them without split_by_whitespace."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    words = ["Query:", "what", "is", "moon", "stone", "bread", "Document:", "Relevant:"]
    letters = sorted(set("".join(words)))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0), ("▁false", -1.0), ("▁true", -1.0)]
    vocabulary += [(letter, -9.0) for letter in letters]
    vocabulary += [(f"▁{word}", -3.0) for word in words]
    vocabulary += [("▁stone▁Relevant:", -1.0), ("▁moon▁Document:", -1.0), ("▁Document:▁bread", -1.0)]
    made = Tokenizer(Unigram(vocabulary, unk_id=2, byte_fallback=False))
    made.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.Replace(" ", "▁"), normalizers.Prepend("▁")]
    )
    made.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("truncation", ["document", "reference"])
@pytest.mark.parametrize("max_length", [16, 512])
def test_prompts_are_tokenised_whole_where_parts_cannot_be_joined(across_words, truncation, max_length, caplog):
    from inranker_flow.rankers.monot5_pairs import Plan

    queries = ["what is bread", "what is moon", "stone", "moon moon"]
    documents = ["stone moon", "moon stone", "bread", "moon", "stone " * 30 + "moon"]
    pairs = np.array([(q, d) for q in range(len(queries)) for d in range(len(documents))])
    renderer = Renderer(across_words, max_length, truncation)
    assert renderer.split_queries(queries)[1].tolist() == [False, True, False, True]
    assert renderer.split_documents(documents)[1].tolist() == [False, True, True, False, False]
    plan = Plan.of(renderer, iter(queries), iter(documents), pairs)
    assert "prompts are tokenised as a whole: words there depend on their neighbours" in caplog.text
    ids, mask = plan.inputs(np.arange(len(pairs)), 8)
    assert ids.shape[1] % 8 == 0 and np.array_equal(mask.sum(axis=1), plan.lengths)
    for row, (q, d) in enumerate(pairs):
        found = ids[row][mask[row] == 1].tolist()
        assert found == renderer.render(queries[q], documents[d])
        whole = across_words(f"Query: {queries[q]} Document: {documents[d]} Relevant:")["input_ids"]
        if len(whole) <= max_length:
            assert found == whole
        elif truncation == "reference":
            assert found == [*whole[: max_length - 1], 1]
        else:
            assert len(found) == max_length and found[-2:] == [*renderer._suffix, 1]
            assert found[: max_length - 2] == whole[: max_length - 2] or len(whole) < max_length + 2
    joined = renderer.assemble(renderer.encode_queries(["what is moon"])[0], renderer.encode_documents(["moon"])[0])
    assert joined != renderer.render("what is moon", "moon"), "joining the parts would have been wrong"


def test_bfloat16_is_close_and_keeps_full_precision_logits():
    pairs = [(query, f"{document} {i}") for i in range(20) for query, document in PAIRS]
    exact = load_ranker(models.t5(), ScoringConfig(dtype="float32")).score(pairs)
    rounded = load_ranker(models.t5(), ScoringConfig(dtype="bfloat16")).score(pairs)
    # A prompt passes some 60 operations, each of which rounds by 2**-9; here logits are of the order of 1.
    assert 0 < np.abs(exact - rounded).max() < 60 * 2**-8 * max(1, np.abs(exact).max())
    # The output layer is computed in float32: its logits are no bfloat16 numbers (8 bits), so they do not tie.
    as_float32 = rounded.astype(np.float32).view(np.uint32)
    assert (as_float32 & 0xFFFF).any()


def test_progress_counts_tokens(caplog):
    ranker = load_ranker(models.t5(), ScoringConfig())
    job = ranker.prepare(["moon"], ["stone", "bread river"], np.array([[0, 0], [0, 1]]))
    # Query: moon Document: stone Relevant: </s>
    assert job.lengths.tolist() == [6, 7]
    with caplog.at_level("INFO", "inranker_flow"):
        ranker.score([("moon", "stone"), ("moon", "bread river")])
    assert "scoring: 13 tokens in" in caplog.text


def test_a_very_small_model_gets_one_thread_unless_the_environment_decides(monkeypatch):
    import torch

    asked = []
    # The number is the process's: really set, it would hold for every later test.
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    small = torch.nn.Linear(10, 10)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    devices.limit_threads(small)
    assert asked == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    devices.limit_threads(torch.nn.Linear(2_000, 1_000))
    assert asked == []
    devices.limit_threads(small)
    assert asked == [1]
