"""Where checkpoints come from: folder, `s3://`, `models:/`, hub, the demo's own, or random ones made on the spot.

`init:SIZE[?tokenizer=FOLDER&seed=N]` is a small random T5, the same in every process: it proves that data goes through a
pipeline, nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from inranker_flow import storage
from inranker_flow.errors import UserError

DEMO_MODELS = Path(__file__).resolve().parents[1] / "demo" / "models"

#: T5 v1.1 shapes for ``init:``.
SIZES = {
    "tiny": {"d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 1},
    "mini": {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 256, "num_layers": 4, "num_decoder_layers": 2},
}


def resolve(reference: str) -> str:
    """A folder or hub id that transformers can load; downloads what lies in S3 or in the model registry."""
    if reference.startswith("demo:"):
        return str(_demo(reference))
    if reference.startswith("models:/"):
        from inranker_flow.registry import fetch

        return str(fetch(reference))
    if reference.startswith(("s3://", "file://")):
        return str(storage.local_copy(reference))
    if reference.startswith(("/", ".", "~")) and not Path(reference).expanduser().is_dir():
        raise UserError(f"{reference}: no such checkpoint folder")
    return str(Path(reference).expanduser()) if Path(reference).expanduser().is_dir() else reference


def _demo(reference: str) -> Path:
    folder = DEMO_MODELS / reference.removeprefix("demo:")
    if not folder.is_dir():
        known = ", ".join(f"demo:{path.name}" for path in sorted(DEMO_MODELS.glob("*")))
        raise UserError(f"{reference}: no such demo model; there is: {known}")
    return folder


def checkpoint_identity(reference: str, revision: str = "") -> str:
    """What makes two references the same weights: content for folders, name and revision for the hub."""
    if reference.startswith("init:"):
        return reference
    resolved = resolve(reference)
    return storage.digest_folder(resolved) if Path(resolved).is_dir() else f"{reference}@{revision or 'main'}"


def load_tokenizer(reference: str, revision: str = "") -> Any:
    """The checkpoint's tokenizer; :class:`UserError` when there is none."""
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    if reference.startswith("init:"):
        reference = _init_options(reference)[1]
    where = resolve(reference)
    try:
        return AutoTokenizer.from_pretrained(where, **_hub_revision(where, revision))
    except (OSError, ValueError) as error:
        raise UserError(f"{reference}: its tokenizer does not load: {_first_line(error)}") from error


def load_seq2seq(reference: str, revision: str = "", dtype: Any = None, dropout: float | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a T5-style checkpoint, in fp32 unless ``dtype``; ``dropout`` replaces the checkpoint's."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    tokenizer = load_tokenizer(reference, revision)
    changes = {} if dropout is None else {"dropout_rate": dropout}
    if reference.startswith("init:"):
        return _random_t5(reference, tokenizer, changes, dtype), tokenizer
    where = resolve(reference)
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(
            where, dtype=dtype or torch.float32, **changes, **_hub_revision(where, revision)
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{reference}: not a sequence-to-sequence checkpoint: {_first_line(error)}") from error
    return model, tokenizer


def load_causal(reference: str, revision: str = "", dtype: Any = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a decoder-only checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(reference, revision)
    where = resolve(reference)
    try:
        model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype or torch.float32, **_hub_revision(where, revision))
    except (OSError, ValueError) as error:
        raise UserError(f"{reference}: not a causal language model: {_first_line(error)}") from error
    return model, tokenizer


def is_seq2seq(reference: str, revision: str = "") -> bool:
    """Whether a checkpoint is an encoder with a decoder (T5) or a decoder alone (Llama, GPT-J)."""
    from transformers import AutoConfig

    if reference.startswith("init:"):
        return True
    where = resolve(reference)
    try:
        return bool(AutoConfig.from_pretrained(where, **_hub_revision(where, revision)).is_encoder_decoder)
    except (OSError, ValueError) as error:
        raise UserError(f"{reference}: no such checkpoint: {_first_line(error)}") from error


def label_token_ids(tokenizer: Any, false_token: str, true_token: str, reference: str = "the checkpoint") -> tuple[int, int]:
    """Ids of the two words whose logits are the score, in the order (false, true).

    Raises :class:`UserError` for a tokenizer without them (hard-coded ids would score noise in silence).
    """
    vocabulary = tokenizer.get_vocab()
    for token in (false_token, true_token):
        if token not in vocabulary:
            raise UserError(
                f"{reference}: its tokenizer has no token {token!r}; use a monoT5-style checkpoint, "
                "or set true_token and false_token to its words"
            )
    return vocabulary[false_token], vocabulary[true_token]


def _random_t5(reference: str, tokenizer: Any, changes: dict[str, Any], dtype: Any) -> Any:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    size, _, seed = _init_options(reference)
    config = T5Config(
        **SIZES[size], **changes, vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        decoder_start_token_id=tokenizer.pad_token_id, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config)
    torch.random.set_rng_state(state)
    return model.to(dtype or torch.float32)


def _init_options(reference: str) -> tuple[str, str, int]:
    size, _, query = reference.removeprefix("init:").partition("?")
    options = {key: values[0] for key, values in parse_qs(query).items()}
    unknown = set(options) - {"tokenizer", "seed"}
    if size not in SIZES or unknown or not options.get("seed", "0").isdigit():
        raise UserError(f"{reference}: expected init:SIZE?tokenizer=FOLDER&seed=N with SIZE one of {', '.join(SIZES)}")
    return size, options.get("tokenizer", "demo:student"), int(options.get("seed", "0"))


def _hub_revision(where: str, revision: str) -> dict[str, str]:
    """Folders have no revisions: theirs is a content digest, kept for the record."""
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
    return {"revision": revision} if revision and not Path(where).is_dir() else {}


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
