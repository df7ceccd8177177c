"""Causal and encoder rerankers score as a plain `transformers` forward pass does: one pair at a time, no padding."""

from __future__ import annotations

import numpy as np
import pytest

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.rankers.loading import load_ranker
from tests import models, teachers
from tests.parity.test_parity import BAR, DOCUMENTS, LONG, QUERIES

PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS]
PAIRS += [(query, document) for query in QUERIES[:3] for document in (LONG, f"{LONG}漢字 🙂\n", LONG * 3)]
PAIRS += [("ends with a mark?\n\n", "\n\nbegins with line ends"), ("{document} {query}", "{answer} {instruction}")]
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def plain_causal(checkpoint, pairs, max_length=512, instruction=INSTRUCTION):
    """As the model card of Qwen3-Reranker does it: prefix, body (cut) and suffix tokenised one by one; no batch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    words = [tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]
    logits = []
    for pair in pairs:
        with torch.no_grad():
            output = model(input_ids=torch.tensor([card_ids(tokenizer, *pair, max_length, instruction)]))
        logits.append(output.logits[0, -1, words].double().numpy())
    return np.array(logits)


def card_ids(tokenizer, query, document, max_length=512, instruction=INSTRUCTION):
    system = (
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be "yes" or "no".'
    )
    prefix = tokenizer.encode(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n", add_special_tokens=False)
    suffix = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", add_special_tokens=False)
    body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    body = tokenizer.encode(body, add_special_tokens=False)[: max_length - len(prefix) - len(suffix)]
    return prefix + body + suffix


def plain_encoder(checkpoint, pairs, max_length=512):
    """The head's own logits, pair by pair."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    logits = []
    for pair in pairs:
        # A list of one pair: transformers takes the empty document of a bare pair for none at all, and leaves its mark out.
        inputs = tokenizer([pair], truncation="only_second", max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits[0].double().numpy())
    return np.array(logits)


def scored_ids(ranker, pairs):
    """What the model reads of each pair, padding taken off."""
    job = ranker.prepare([query for query, _ in pairs], [document for _, document in pairs], places(pairs))
    ids, mask, _ = job.inputs(np.arange(len(pairs)))
    assert (mask.sum(axis=1) == job.lengths).all()
    return [row[kept == 1].tolist() for row, kept in zip(ids, mask, strict=True)]


def places(pairs):
    return np.stack([np.arange(len(pairs))] * 2, axis=1)


def real_pairs(count):
    passages = models.real_passages(count)
    if not passages:
        pytest.skip(f"{models.DATA} is absent: real texts are not part of the project")
    return [(f"{text[:60]}?", text) for text in passages]


def differ(logits):
    """The scores differ, so an agreement means something."""
    return (logits[:, 1] - logits[:, 0]).std() > 0.05


# --- causal -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("max_length", [160, 512])
def test_a_causal_reranker_scores_as_a_plain_forward_pass(kind, max_length):
    checkpoint = teachers.causal(kind)
    scores = load_ranker(checkpoint, ScoringConfig(prompt="qwen3-reranker", max_length=max_length)).score(PAIRS)
    expected = plain_causal(checkpoint, PAIRS, max_length)
    assert np.abs(scores - expected).max() < BAR
    assert differ(expected)


def test_real_texts_have_the_ids_of_the_model_card():
    ranker = load_ranker(teachers.causal(), ScoringConfig(prompt="qwen3-reranker", max_length=256))
    pairs = [*PAIRS, *real_pairs(2000)]
    expected = [card_ids(ranker.tokenizer, *pair, max_length=256) for pair in pairs]
    assert max(map(len, expected)) == 256 and min(map(len, expected)) < 100
    assert scored_ids(ranker, pairs) == [ids[ranker.known :] for ids in expected]


def test_the_instruction_is_part_of_the_prompt():
    checkpoint = teachers.causal()
    other = "Find the bridge that the query means"
    scores = load_ranker(checkpoint, ScoringConfig(prompt="qwen3-reranker", instruction=other)).score(PAIRS[:20])
    assert np.abs(scores - plain_causal(checkpoint, PAIRS[:20], instruction=other)).max() < BAR
    assert np.abs(scores - plain_causal(checkpoint, PAIRS[:20])).max() > 1000 * BAR


@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_the_batch_does_not_matter_to_a_causal_reranker(kind):
    checkpoint, pairs = teachers.causal(kind), PAIRS[::2]
    scores = load_ranker(checkpoint, ScoringConfig(prompt="qwen3-reranker")).score(pairs)
    order = np.random.default_rng(0).permutation(len(pairs))
    for batch_tokens in (1, 700, 100_000):
        others = load_ranker(checkpoint, ScoringConfig(prompt="qwen3-reranker", batch_tokens=batch_tokens)).score(
            [pairs[i] for i in order]
        )
        assert np.abs(others - scores[order]).max() < BAR


def test_prompts_are_padded_on_the_left_and_counted_from_their_first_token():
    """Counted otherwise, or without the mask, the same batch is far beyond the bar."""
    import torch

    pairs = [("moon", "stone"), ("what is bread", "the river and the stone in the garden of the north")]
    ranker = load_ranker(teachers.causal("gpt2"), ScoringConfig(prompt="qwen3-reranker"))
    seen = []
    inner = ranker.model.forward

    def recording(*args, **kwargs):
        seen.append(kwargs)
        return inner(*args, **kwargs)

    ranker.model.forward = recording
    scores = ranker.score(pairs)
    ranker.model.forward = inner
    [batch] = seen
    mask, positions = batch["attention_mask"].numpy(), batch["position_ids"].numpy()
    fixed = mask.shape[1] - positions.shape[1]
    lengths = mask.sum(axis=1)
    assert fixed > 50 and mask[:, :fixed].all() and mask[:, -1].all() and (mask == 0).any()
    for row, length, place in zip(mask, lengths, positions, strict=True):
        assert place[-(length - fixed) :].tolist() == list(range(fixed, length))
        assert (np.diff(row[fixed:]) >= 0).all()
    counted = torch.arange(fixed, mask.shape[1]).expand(len(pairs), -1)
    with torch.inference_mode():
        for wrong in ({"position_ids": counted}, {"attention_mask": torch.ones_like(batch["attention_mask"])}):
            logits = inner(**{**batch, **wrong}).logits[:, -1].numpy()
            # The order in the batch is by length: the second pair comes first.
            assert np.abs(logits[::-1] - scores).max() > 100 * BAR
        assert np.abs(inner(**batch).logits[:, -1].numpy()[::-1] - scores).max() < BAR


@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_only_two_logits_of_the_last_position_are_computed(kind):
    ranker = load_ranker(teachers.causal(kind), ScoringConfig(prompt="qwen3-reranker"))
    shapes = []
    ranker.model.get_output_embeddings().register_forward_hook(lambda _, inputs, output: shapes.append(output.shape))
    ranker.score(PAIRS[:30])
    assert shapes and all(tuple(shape[1:]) == (1, 2) for shape in shapes)


def test_the_common_beginning_is_computed_once_where_attention_is_plain():
    plain, windowed = (
        load_ranker(teachers.causal(kind), ScoringConfig(prompt="qwen3-reranker")) for kind in ("qwen3", "gemma2")
    )
    job, whole = (each.prepare(["moon"], ["a stone"], np.array([[0, 0]])) for each in (plain, windowed))
    assert 0 < job.lengths[0] < whole.lengths[0] - 50
    assert plain.reader.frame.room == windowed.reader.frame.room


# --- encoders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("max_length", [64, 512])
def test_a_score_becomes_a_pair_with_that_margin(kind, max_length):
    checkpoint = teachers.encoder(kind)
    logits = load_ranker(checkpoint, ScoringConfig(max_length=max_length)).score(PAIRS)
    expected = plain_encoder(checkpoint, PAIRS, max_length)[:, 0]
    assert np.abs(logits[:, 1] - logits[:, 0] - expected).max() < BAR
    assert (logits[:, 0] == -logits[:, 1]).all() and differ(logits)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_two_labels_are_the_pair(kind):
    checkpoint = teachers.encoder(kind, labels=2)
    logits = load_ranker(checkpoint, ScoringConfig()).score(PAIRS)
    assert np.abs(logits - plain_encoder(checkpoint, PAIRS)).max() < BAR
    assert differ(logits)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_batch_does_not_matter_to_an_encoder(kind):
    checkpoint = teachers.encoder(kind)
    scores = load_ranker(checkpoint, ScoringConfig()).score(PAIRS)
    order = np.random.default_rng(0).permutation(len(PAIRS))
    for batch_tokens in (1, 700, 100_000):
        others = load_ranker(checkpoint, ScoringConfig(batch_tokens=batch_tokens)).score([PAIRS[i] for i in order])
        assert np.abs(others - scores[order]).max() < BAR


def test_real_texts_have_the_ids_of_the_tokenizers_own_pair():
    path = models.DATA / "tokenizers" / "bert-base-uncased"
    if not path.is_dir():
        pytest.skip(f"{path} is absent: the real BERT vocabulary is not part of the project")
    ranker = load_ranker(teachers.encoder(tokenizer=path), ScoringConfig(max_length=96))
    pairs = [*PAIRS, *real_pairs(2000)]
    expected = ranker.tokenizer(pairs, truncation="only_second", max_length=96)["input_ids"]
    assert max(map(len, expected)) == 96 and min(map(len, expected)) < 20
    assert scored_ids(ranker, pairs) == expected
