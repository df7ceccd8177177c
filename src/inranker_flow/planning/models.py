"""What a plan must know of a model without loading it: its kind, its weights, and the tokens of its prompt.

All of it comes from files that are here, else from the checkpoint's name: a plan asks no hub.
"""

from __future__ import annotations

import json
import re
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from inranker_flow.config.sections import DistillConfig, ScoringConfig
from inranker_flow.config.values import Kind
from inranker_flow.errors import UserError
from inranker_flow.rankers import families, random_models, templates
from inranker_flow.rankers.checkpoints import DEMO
from inranker_flow.rankers.kinds import starting_kind
from inranker_flow.rankers.random_models import SIZES

#: Characters of a token where the tokenizer is not here (T5's, English).
TOKEN_CHARACTERS = 4.3
#: Tokens around query and document where the tokenizer is not here: of a monoT5's prompt, and of an encoder's marks.
_AROUND: dict[Kind, float] = {"monot5": 10, "encoder": 3}
#: Share of the weights that read a token: a T5's prompt goes through its encoder alone.
READING: dict[Kind, float] = {"monot5": 0.5, "encoder": 1.0, "causal": 1.0}

#: Weights of checkpoints by their names, the longer names first; else a number with b or m in the name counts.
_KNOWN = {
    "monot5-3b": 2.85e9, "monot5-large": 0.77e9, "monot5-base": 0.22e9, "monot5-small": 0.06e9, "t5-small": 0.06e9,
    "t5-base": 0.22e9, "t5-large": 0.77e9, "t5-3b": 2.85e9, "gpt-j-6b": 6.05e9,
    "mxbai-rerank-large-v2": 1.54e9, "mxbai-rerank-base-v2": 0.49e9, "bge-reranker-v2-m3": 0.57e9,
    "minilm-l12": 0.033e9, "minilm-l-12": 0.033e9, "minilm-l6": 0.023e9, "minilm-l-6": 0.023e9,
    "xlm-roberta-base": 0.28e9, "xlm-roberta-large": 0.56e9, "distilroberta-base": 0.08e9, "roberta-base": 0.125e9,
    "roberta-large": 0.355e9, "modernbert-base": 0.15e9, "modernbert-large": 0.395e9, "distilbert-base": 0.066e9,
    "deberta-v3-xsmall": 0.07e9, "deberta-v3-small": 0.14e9, "deberta-v3-base": 0.18e9, "deberta-v3-large": 0.43e9,
    "electra-small": 0.014e9, "electra-base": 0.11e9, "electra-large": 0.335e9, "bert-base": 0.11e9, "bert-large": 0.335e9,
}  # fmt: skip
#: How checkpoints of a kind are called.
_NAMED: dict[Kind, str] = {
    "monot5": r"t5|t0|ul2",
    "encoder": r"bert|minilm|electra|cross-encoder|bge-reranker-(base|large|v2-m3)|gte-.*rerank|mpnet",
    "causal": r"qwen|llama|gemma|gpt|phi-|mistral|smollm|olmo|pythia|falcon|bloom|mxbai-rerank",
}


@cache
def kind_of(reference: str) -> Kind:
    """Return the kind of a checkpoint; that of the paper, monoT5, where nothing says another."""
    if reference.startswith("init:"):
        return random_models.kind_of(reference)
    folder = _folder(reference)
    try:
        return starting_kind(reference, json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, UserError):  # not here; or what is wrong with it, the checks before a run say
        pass
    name = reference.lower()
    return next((kind for kind, pattern in _NAMED.items() if re.search(pattern, name)), "monot5")


def parameters(reference: str) -> float:
    """Return weights of a checkpoint, from its files or its name; 0 where neither says."""
    if reference.startswith("init:") and (shape := SIZES.get(reference.removeprefix("init:").partition("?")[0])):
        return float(shape.weights)
    folder = _folder(reference)
    if folder.is_dir():
        return float(sum(map(_weights, folder.glob("*.safetensors"))))
    name = reference.rstrip("/").rpartition("/")[2].lower()
    for known, number in _KNOWN.items():
        if known in name:
            return number
    found = re.search(r"(?<![a-z0-9])(\d+(?:\.\d+)?)(b|m)(?![a-z])", name)
    if found:
        return float(found[1]) * {"b": 1e9, "m": 1e6}[found[2]]
    sizes = {"small": 0.06e9, "base": 0.22e9, "large": 0.77e9}
    return next((number for word, number in sizes.items() if word in re.split(r"[-_]", name)), 0.0)


def computing(reference: str) -> float:
    """Return the weights that compute for each token: those of the embeddings are looked up, which costs nothing.

    Of a T5, whose embeddings are also its output, all count, as they always have here. 0 where nothing says them.
    """
    weights = parameters(reference)
    if kind_of(reference) == "monot5" or reference.startswith("init:"):
        return weights
    try:
        config = json.loads((_folder(reference) / "config.json").read_text(encoding="utf-8"))
        looked_up = config["vocab_size"] * config.get("embedding_size", config["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return weights
    return max(weights - float(looked_up), weights / 10)


def dimensions(reference: str) -> int:
    """Return the numbers of a bi-encoder's vector: what its config.json says, else 768 (assumed)."""
    try:
        config = json.loads((_folder(reference) / "config.json").read_text(encoding="utf-8"))
        return int(config["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 768


def reading_of(config: DistillConfig, start: str) -> ScoringConfig:
    """Return how the student that starts from ``start`` reads, as far as its prompt's length goes."""
    return ScoringConfig(
        kind=kind_of(start),
        max_length=config.max_length,
        prompt=config.prompt,
        instruction=config.instruction or ScoringConfig.instruction,
    )


def around(reference: str, scoring: ScoringConfig, tokenizer: Any) -> float:
    """Return the tokens of an input beside query and document; ``tokenizer`` is None where it is not here."""
    kind: Kind = kind_of(reference) if scoring.kind == "auto" else scoring.kind
    if kind == "causal":
        text = _template(reference, scoring)
        return float(len(tokenizer.encode(text).ids)) if tokenizer else len(text) / TOKEN_CHARACTERS
    # For a random encoder any tokenizer is dressed as an encoder's.
    if tokenizer is None or (kind == "encoder" and reference.startswith("init:")):
        return _AROUND[kind]
    if kind == "encoder":
        return float(tokenizer.num_special_tokens_to_add(True))
    return float(len(tokenizer.encode("Query: Document: Relevant:").ids))  # with </s>


def _template(reference: str, scoring: ScoringConfig) -> str:
    """Return what a causal model's prompt holds beside query and document."""
    named = (family.name for family in families.FAMILIES if re.search(family.pattern, reference.lower()))
    template = templates.load(scoring.prompt or next(named, "plain"), scoring.instruction)
    return "".join([template.before, template.between, template.after]).replace(templates.SEAM, "")


def _folder(reference: str) -> Path:
    scheme, _, rest = reference.partition(":")
    return DEMO / rest if scheme == "demo" else Path(reference).expanduser()


def _weights(file: Path) -> int:
    """Return numbers in a safetensors file, from its head."""
    with open(file, "rb") as stored:
        head = json.loads(stored.read(struct.unpack("<Q", stored.read(8))[0]))
    return sum(int(np.prod(each["shape"])) for name, each in head.items() if name != "__metadata__")
