"""Causal and encoder teachers against the code that their users run: ratios of pairs per CPU second, one core.

    .venv/bin/python -m pip install --no-deps --target /tmp/peers sentence-transformers==6.2.0 scikit-learn joblib threadpoolctl
    PYTHONPATH=src:.:/tmp/peers OMP_NUM_THREADS=1 taskset -c 0 .venv/bin/python benchmarks/teachers.py 12 5

Arguments: queries (ten passages each) and rounds. Random weights: a Qwen3 of 8 layers (hidden size 512, the real vocabulary
of 151,936) and a BERT of MiniLM's shape (6 layers, 384). Passages have 20 to 250 words (mean 77), one token each. Variants
take turns in every round; the ratio is the median over the rounds. The peers:

- causal: the code on Qwen3-Reranker's model card, one call for each query, its ten passages in one batch; and the same with
  ``logits_to_keep=1``, so that the output layer is not computed for every position.
- encoder: ``sentence_transformers.CrossEncoder.predict`` over all pairs at once, which sorts by length (batches of 32).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
import transformers
from sentence_transformers import CrossEncoder

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.rankers import templates
from inranker_flow.rankers.causal import CausalRanker
from inranker_flow.rankers.loading import load_ranker
from tests import models, teachers

Pairs = list[tuple[str, str]]
Variants = dict[str, Callable[[Pairs], np.ndarray]]
WORDS = [word for word in models.WORDS.split() if word.isalpha()]


def main(queries: int, rounds: int) -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    pairs = [(query, _text(random, int(length))) for query in _queries(random, queries) for length in _lengths(random)]
    with tempfile.TemporaryDirectory() as folder:
        for name, variants in (("causal", _causal(f"{folder}/causal")), ("encoder", _encoder(f"{folder}/encoder"))):
            print(
                f"\n{name}: {len(pairs)} pairs, {rounds} rounds\n\n| variant | pairs/s | ratio | difference |\n|---|---|---|---|"
            )
            _compare(variants, pairs, rounds)


def _compare(variants: Variants, pairs: Pairs, rounds: int) -> None:
    first = next(iter(variants))
    expected = variants[first](pairs[:10])
    worst = {name: float(np.abs(score(pairs[:10]) - expected).max()) for name, score in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, score in variants.items():
            start = time.process_time()
            score(pairs)
            seconds[name].append(time.process_time() - start)
    for name, taken in seconds.items():
        ratio = median(peer / own for peer, own in zip(seconds[first], taken, strict=True))
        print(f"| {name} | {len(pairs) / median(taken):.1f} | {ratio:.2f} | {worst[name]:.0e} |", flush=True)


def _queries(random: np.random.Generator, count: int) -> list[str]:
    return [_text(random, int(random.integers(4, 13))) for _ in range(count)]


def _lengths(random: np.random.Generator) -> np.ndarray:
    return np.clip(random.lognormal(4.17, 0.6, 10), 20, 250)


def _text(random: np.random.Generator, words: int) -> str:
    return " ".join(random.choice(WORDS, words))


def _causal(path: str) -> Variants:
    tokenizer = teachers.bpe()
    config = transformers.Qwen3Config(
        vocab_size=151_936, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64, tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM(config).eval()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    ours = load_ranker(path, ScoringConfig())
    whole = _without_cache(path)
    return {
        "model card": lambda pairs: _card(model, tokenizer, pairs, {}),
        "model card, logits_to_keep=1": lambda pairs: _card(model, tokenizer, pairs, {"logits_to_keep": 1}),
        "ours, the beginning computed in each prompt": lambda pairs: _margin(whole.score(pairs)),
        "ours": lambda pairs: _margin(ours.score(pairs)),
    }


def _without_cache(path: str) -> CausalRanker:
    class Whole(CausalRanker):
        def _compute(self, beginning: list[int]) -> None:
            return None

    return Whole(path, ScoringConfig(false_token="no", true_token="yes"))


def _card(model: torch.nn.Module, tokenizer: object, pairs: Pairs, options: dict[str, int]) -> np.ndarray:
    """Query by query: prompts padded on the left, the two words' logits at the last position."""
    template = templates.load("qwen3-reranker", ScoringConfig().instruction)
    words = [tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")]
    scores = []
    for start in range(0, len(pairs), 10):
        texts = [f"{template.before}{q}{template.between}{d}{template.after}" for q, d in pairs[start : start + 10]]
        inputs = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt", add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            logits = model(**inputs, **options).logits[:, -1, :]
        scores += (logits[:, words[0]] - logits[:, words[1]]).tolist()
    return np.array(scores)


def _encoder(path: str) -> Variants:
    tokenizer = teachers.wordpiece()
    config = transformers.BertConfig(
        vocab_size=30_522, hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12, num_labels=1
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    ours = load_ranker(path, ScoringConfig())
    peer = CrossEncoder(path, device="cpu", max_length=512)
    return {
        "CrossEncoder.predict": lambda pairs: peer.predict(
            pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False
        ),
        "ours": lambda pairs: _margin(ours.score(pairs)),
    }


def _margin(logits: np.ndarray) -> np.ndarray:
    return logits[:, 1] - logits[:, 0]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
