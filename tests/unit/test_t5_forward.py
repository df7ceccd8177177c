"""The closed form of a T5's label logits against the forward pass of `transformers`: values, gradients, dropout."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.rankers import gradients as by_hand
from inranker_flow.rankers import kernels
from inranker_flow.rankers.checkpoints import load_seq2seq
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.rankers.t5_forward import T5Forward, unsupported

LABELS = (6, 11)
#: The same numbers in other sums. Logits are of the order of 4 here, an operation rounds by 2**-24 of its value (a sum of a few
#: hundred by a few times that), and a prompt passes some 60 of them: 60 * 4 * 4 * 2**-24, whatever a CPU's order of sums.
BAR = 60 * 4 * 4 * 2**-24
#: Tokens of the prompts in a batch.
LENGTHS = (40, 33, 7, 1, 40, 24)


@pytest.fixture(autouse=True)
def one_thread():
    """Models as small as these are slower on two threads, and very much so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model(form: str, layers: int = 3, width: int = 64, seed: int = 0):
    """A random T5 whose logits are about as large as a trained one's, so that a difference means something."""
    from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

    kind, settings = {
        "v1.0": (T5ForConditionalGeneration, T5Config),
        "v1.1": (T5ForConditionalGeneration, T5Config),
        "mt5": (MT5ForConditionalGeneration, MT5Config),
    }[form]
    changes = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if form == "v1.1" else {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = kind(
            settings(
                vocab_size=97,
                d_model=width,
                d_kv=width // 4,
                d_ff=2 * width,
                num_heads=4,
                num_layers=layers,
                num_decoder_layers=layers - 1,  # the two need not be as deep as each other
                decoder_start_token_id=0,
                **changes,
            )
        )
        if form != "v1.0":  # as on the hub: an output matrix of its own, and no scaling
            made.lm_head.weight = nn.Parameter(torch.randn(97, width) * width**-0.5)
            assert not getattr(made.config, "scale_decoder_outputs", False)
        for module in made.modules():
            if hasattr(module, "variance_epsilon"):  # weights of trained norms are not 1
                module.weight = nn.Parameter(1 + 0.2 * torch.randn_like(module.weight))
        first = made.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        first.weight = nn.Parameter(torch.randn_like(first.weight))
    return made.eval()


def batch(lengths=LENGTHS, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 97, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def plain(made, ids, mask):
    start = ids.new_zeros(len(ids), 1)
    return made(input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=False).logits[:, 0, list(LABELS)]


forms = pytest.mark.parametrize("form", ["v1.0", "v1.1", "mt5"])


# --- values -----------------------------------------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("width", [64, 256], ids=["small", "packed"])
def test_the_closed_form_is_the_plain_forward(form, width):
    made = model(form, width=width)
    ids, mask = batch()
    with torch.no_grad():
        expected = plain(made, ids, mask)
        assert expected.std() > 0.1
        fast = T5Forward(made, LABELS)
        assert (fast(ids, mask) - expected).abs().max() < BAR
        frozen = T5Forward(copy.deepcopy(made), LABELS).freeze()
        assert (frozen(ids, mask) - expected).abs().max() < BAR
        alone = ids[2:3, : LENGTHS[2]]
        assert (frozen(alone, None) - expected[2:3]).abs().max() < BAR, "without padding no mask is needed"
        assert (frozen(ids, None) - expected).abs().max() > 100 * BAR, "with padding it is"


def test_long_prompts_and_far_positions():
    """Beyond 128 tokens all distances share T5's last bucket."""
    made = model("v1.0")
    ids, mask = batch((700, 300, 129, 128, 127))
    with torch.no_grad():
        expected = plain(made, ids, mask)
        assert (T5Forward(made, LABELS).freeze()(ids, mask) - expected).abs().max() < BAR


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_the_demo_models(name):
    made, _ = load_seq2seq(f"demo:{name}")
    ids, mask = batch()
    with torch.no_grad():
        expected = plain(made, ids, mask)
        assert (T5Forward(made, LABELS).freeze()(ids, mask) - expected).abs().max() < BAR


@forms
def test_bfloat16_keeps_the_order(form):
    """As far as 8 bits go, and not further from float32 than the plain forward in bfloat16 but for chance.

    A prompt passes some 60 operations, each of which rounds by 2**-9: 12 % of the spread if all err to one side, which is a
    correlation of .993.
    """
    from scipy.stats import spearmanr

    made = model(form, width=128)
    lengths = np.random.default_rng(0).integers(8, 48, 150)
    ids, mask = batch(tuple(lengths.tolist()))
    ids, mask = nn.functional.pad(ids, (0, -ids.shape[1] % 16)), nn.functional.pad(mask, (0, -mask.shape[1] % 16))
    with torch.no_grad():
        exact = plain(made, ids, mask)
        made = made.to(torch.bfloat16)
        other = plain(made, ids, mask).float()
        rounded = T5Forward(made, LABELS).freeze()(ids, mask)
    assert rounded.dtype == torch.float32
    margins = [(each[:, 1] - each[:, 0]).numpy() for each in (exact, rounded, other)]
    assert spearmanr(margins[0], margins[1]).statistic > 0.99
    assert np.abs(margins[0] - margins[1]).mean() < 2 * np.abs(margins[0] - margins[2]).mean()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_and_company_change_nothing(dtype):
    made = model("v1.1").to(getattr(torch, dtype))
    fast = T5Forward(made, LABELS).freeze()
    ids, mask = batch()
    bar = 1e-5 if dtype == "float32" else 0.05
    with torch.no_grad():
        together = fast(ids, mask)
        for row, length in enumerate(LENGTHS):
            alone = fast(ids[row : row + 1, :length], None)
            assert (alone - together[row]).abs().max() < bar
        wider = fast(nn.functional.pad(ids, (0, 24)), nn.functional.pad(mask, (0, 24)))
        assert (wider - together).abs().max() < bar


# --- gradients --------------------------------------------------------------------------------------------------------


def gradients(made, forward):
    made.zero_grad()
    ids, mask = batch()
    target = torch.linspace(-1, 1, 2 * len(ids)).view(-1, 2)
    nn.functional.mse_loss(forward(ids, mask), target).backward()
    return {name: None if each.grad is None else each.grad.clone() for name, each in made.named_parameters()}


@forms
@pytest.mark.parametrize("width", [64, 512], ids=["small", "onednn"])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_the_plain_forward(form, width, recompute):
    made = model(form, width=width)
    expected = gradients(made, lambda ids, mask: plain(made, ids, mask))
    fast = T5Forward(made, LABELS)
    fast.recompute = recompute
    found = gradients(made, fast)
    without = {name for name, each in found.items() if each is None}
    assert without and all(
        ".SelfAttention." in name and name.startswith("decoder.") and not name.endswith(("v.weight", "o.weight"))
        for name in without
    )
    largest = max(each.abs().max() for each in expected.values() if each is not None)
    for name, each in expected.items():
        if name in without:
            assert each is None or each.abs().max() < 1e-7 * largest, f"{name}: softmax over one position is constant"
        else:
            assert (found[name] - each).abs().max() < 2e-5 * largest, name


def test_gradients_under_autocast_are_close():
    made = model("v1.0", width=256)
    exact = gradients(made, T5Forward(made, LABELS))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(made, T5Forward(made, LABELS))
    for name, each in exact.items():
        if each is not None:
            # 100 roundings of 2**-9, there and back, are 20 % if all err to one side: a cosine of .98.
            assert nn.functional.cosine_similarity(each.flatten(), rounded[name].flatten(), dim=0) > 0.98, name


def test_nothing_goes_stale_when_weights_change():
    made = model("v1.0")
    fast = T5Forward(made, LABELS)
    ids, mask = batch()
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(3):
        nn.functional.mse_loss(fast(ids, mask), torch.ones(len(ids), 2)).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert (fast(ids, mask) - plain(made, ids, mask)).abs().max() < BAR


@forms
def test_dropout_is_that_of_the_plain_forward(form):
    """Random numbers are drawn in another order, so the distributions are compared: mean and spread over many draws."""
    made = model(form, layers=2)
    made.config.dropout_rate = 0.1
    made.train()
    assert {module.p for module in made.modules() if isinstance(module, nn.Dropout)} == {0.1}
    fast = T5Forward(made, LABELS)
    draws = 4000
    ids, mask = (each[2:3, :10].expand(draws, -1) for each in batch())  # a padded prompt, many times
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        ours, theirs = fast(ids, mask), plain(made, ids, mask)
    error = ((ours.var(0) + theirs.var(0)) / draws).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() / error).max() < 4
    assert (ours.std(0) / theirs.std(0)).log().abs().max() < 0.06 and ours.std(0).min() > 0.01
    ids, mask = batch()
    made.eval()
    with torch.no_grad():
        assert (fast(ids, mask) - plain(made, ids, mask)).abs().max() < BAR, "none in evaluation mode"


def test_gradients_by_hand():
    """Against autograd's of the same formulas."""
    torch.manual_seed(0)
    count, heads, length, width = 3, 2, 7, 4
    qkv = torch.randn(count * length, 3 * heads * width, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(1, heads, length, length, dtype=torch.float64, requires_grad=True)
    padding = torch.zeros(count, 1, 1, length, dtype=torch.float64)
    padding[1, ..., 5:] = torch.finfo(torch.float64).min

    def plainly() -> torch.Tensor:
        query, key, value = qkv.view(count, length, 3, heads, width).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) + bias + padding).softmax(-1)
        return (weights @ value).transpose(1, 2).reshape(count * length, -1)

    upstream = torch.randn(count * length, heads * width, dtype=torch.float64)
    ours = by_hand.attention(qkv, bias, (bias + padding).detach(), 0.0)
    torch.testing.assert_close(ours, plainly())
    for each in zip(*(torch.autograd.grad(made, (qkv, bias), upstream) for made in (ours, plainly())), strict=True):
        torch.testing.assert_close(*each)
    x, weight = (torch.randn(shape, requires_grad=True) for shape in ((5, 8), (8,)))
    made = by_hand.rms_norm(x, weight, 1e-6), nn.functional.rms_norm(x, (8,), weight, 1e-6)
    found = [torch.autograd.grad(each, (x, weight), torch.ones_like(x)) for each in made]
    for each in zip(*found, strict=True):
        torch.testing.assert_close(*each)


def test_dropout_by_bytes():
    """The share that is dropped, the mean that stays, and the same numbers in value and gradient, for any number of threads."""
    x, to = torch.full((512, 2048), 1.5, requires_grad=True), torch.ones(512, 2048)
    functions = {
        "drop": lambda: by_hand.drop(x, 0.1),
        "drop_and_add": lambda: by_hand.drop_and_add(x, to, 0.1) - 1,
        "relu_and_drop": lambda: by_hand.relu_and_drop(x, 0.1),
    }
    threads = torch.get_num_threads()
    made = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for function in functions.values():
                torch.manual_seed(3)
                made.append(function())
    finally:
        torch.set_num_threads(threads)
    for each in made:
        assert torch.allclose(each, made[0], atol=1e-6)
        [gradient] = torch.autograd.grad(each.sum(), x)
        assert torch.allclose(gradient * 1.5, each, atol=1e-6)
    kept = (made[0] != 0).double().mean()
    assert abs(1 - kept - 26 / 256) < 0.002 and abs(made[0].mean() - 1.5) < 0.004
    neighbours = (made[0][:, 1:] != 0) & (made[0][:, :-1] != 0)
    assert abs(neighbours.double().mean() - kept**2) < 0.002, "one is dropped whatever its neighbour is"


@pytest.mark.long
def test_it_can_be_compiled(monkeypatch):
    """Traced for all shapes at once (without writing kernels, which takes minutes on a CPU)."""
    from functools import partial

    made = model("v1.1", layers=2)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    fast = T5Forward(copy.deepcopy(made), LABELS).freeze(compile=True)
    with torch.inference_mode():
        for lengths in (LENGTHS, (16, 16, 9), (80, 3)):
            ids, mask = batch(lengths)
            assert (fast(ids, mask) - plain(made, ids, mask)).abs().max() < BAR


# --- what it is not for -----------------------------------------------------------------------------------------------


def test_what_has_no_closed_form():
    from transformers import UMT5Config, UMT5ForConditionalGeneration

    small = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    assert unsupported(UMT5ForConditionalGeneration(UMT5Config(**small))) == "a UMT5ForConditionalGeneration"
    with pytest.raises(ValueError, match="no closed form for a UMT5"):
        T5Forward(UMT5ForConditionalGeneration(UMT5Config(**small)), LABELS)
    assert unsupported(model("v1.0")) == ""
    assert unsupported(model("v1.0").half()) == "weights in float16"
    mixed = model("v1.0").bfloat16()
    mixed.lm_head.float()
    assert unsupported(mixed) == "weights in bfloat16, float32"

    class Adapted(nn.Linear):
        """As adapters and quantised layers are."""

    other = model("v1.0")
    other.encoder.block[0].layer[0].SelfAttention.q = Adapted(64, 64, bias=False)
    assert unsupported(other) != ""


# --- kernels ----------------------------------------------------------------------------------------------------------


def test_onednn_products_and_their_gradients(monkeypatch):
    if not kernels.onednn_works(torch.float32):
        pytest.skip("this build of PyTorch has no oneDNN operators")
    # oneDNN is taken on an AMD with AVX-512 alone, which this machine need not be; its product works on every one.
    monkeypatch.setattr(kernels, "mkl_is_slow", lambda: True)
    torch.manual_seed(0)
    x, weight = torch.randn(4, 300, 64, requires_grad=True), torch.randn(96, 64, requires_grad=True)
    product = kernels.linear(x, weight)
    assert "_Linear" in type(product.grad_fn).__name__, "large enough for oneDNN"
    upstream = torch.randn_like(product)
    found = torch.autograd.grad(product, (x, weight), upstream)
    expected = torch.autograd.grad(nn.functional.linear(x, weight), (x, weight), upstream)
    assert (product - nn.functional.linear(x, weight)).abs().max() < 1e-4
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights(dtype, monkeypatch):
    # Weights in float32 are packed with AVX-512 alone, which this machine need not have; the products work without.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    torch.manual_seed(0)
    weight, x, to = (torch.randn(shape).to(dtype) for shape in ((256, 192), (50, 192), (50, 256)))
    ours, plain_weight = kernels.packed(weight), kernels.Weight(weight)
    assert isinstance(ours, kernels.PackedWeight) == kernels.onednn_works(dtype)
    # Either rounds the product, and the sum again, by half a unit in the last of its digits.
    exact = x.double() @ weight.double().t()
    digits = torch.finfo(dtype).eps
    bar = 2 * digits * (exact.abs() + (exact + to).abs()) + 1e-4
    assert ((ours(x) - plain_weight(x)).abs() <= bar).all()
    assert ((ours.relu(x) - plain_weight.relu(x)).abs() <= bar).all() and ours.relu(x).min() == 0
    assert ((ours.added(x, to) - plain_weight.added(x, to)).abs() <= bar).all()


def test_without_the_operators_of_onednn_scores_are_the_same(monkeypatch):
    pairs = [("where is the bridge", "the bridge is in the north"), ("what is copper", "a jacket")]
    expected = load_ranker("init:mini", ScoringConfig()).score(pairs)
    monkeypatch.setattr(kernels, "onednn_works", lambda dtype: False)
    assert load_ranker("init:mini", ScoringConfig()).score(pairs) == pytest.approx(expected, abs=BAR)
