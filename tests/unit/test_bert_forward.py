"""The forward pass of an encoder's head against that of `transformers`: values, gradients, dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from inranker_flow.rankers.bert_forward import BertForward, supported

BAR = 5e-6
LENGTHS = 20, 20, 13, 20, 5, 9


def made(kind: str, dropout: float = 0.0) -> Any:
    """A model with weights that matter, biases and norms included."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_labels=1,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def batch(model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Padded ids, their mask, and token types where the model has them."""
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(5, 100, mask.shape, generator=torch.Generator().manual_seed(0))
    ids[mask == 0] = model.config.pad_token_id
    types = (torch.arange(mask.shape[1]) > 3).long() * mask
    return ids, mask, types if model.config.type_vocab_size > 1 and model.config.model_type == "bert" else None


def plain(model: Any, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
    named = {} if types is None else {"token_type_ids": types}
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask, **named).logits
    return logits


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["Bert", "Roberta", "XLMRoberta"])
def test_values_and_gradients_are_those_of_the_plain_forward(kind, recompute):
    model = made(kind)
    inputs = batch(model)
    with torch.inference_mode():
        expected = plain(model, *inputs)
        assert (BertForward(model)(*inputs) - expected).abs().max() < BAR and expected.std() > 0.03
    upstream = torch.randn(len(LENGTHS), 1, generator=torch.Generator().manual_seed(2))
    gradients = []
    for forward in (BertForward(model, recompute), lambda *each: plain(model, *each)):
        model.zero_grad()
        forward(*inputs).mul(upstream).sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in gradients[1].items():
        assert (gradients[0][name] - gradient).abs().max() <= 1e-5 * max(1, gradient.abs().max()), name


def test_an_encoders_dropout_is_that_of_the_plain_forward():
    model = made("Bert", dropout=0.2).train()
    model.dropout.p = model.bert.embeddings.dropout.p = 0.2
    draws = 2000
    inputs = [each[4:5, :5].expand(draws, -1) for each in batch(model)]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        ours, theirs = BertForward(model)(*inputs), plain(model, *inputs)
    error = ((ours.var() + theirs.var()) / draws).sqrt()
    assert (ours.mean() - theirs.mean()).abs() < 4 * error
    assert (ours.std() / theirs.std()).log().abs() < 0.09 and ours.std() > 0.05


def test_what_else_is_computed_by_its_own_forward():
    small = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ElectraConfig(**small, embedding_size=32, intermediate_size=32)
    other = transformers.ElectraForSequenceClassification(config)
    assert not supported(other)
    with pytest.raises(ValueError, match="ElectraForSequenceClassification"):
        BertForward(other)
    model = made("Bert")

    class Adapted(torch.nn.Linear):
        """As adapters are."""

    model.bert.encoder.layer[0].attention.self.query = Adapted(64, 64)
    assert not supported(model)
