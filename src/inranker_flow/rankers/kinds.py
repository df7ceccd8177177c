"""Which ranker a checkpoint is made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from inranker_flow.config.values import Kind
from inranker_flow.errors import UserError
from inranker_flow.rankers import random_models
from inranker_flow.rankers.checkpoints import load_config, read_file
from inranker_flow.rankers.files import gives_vectors

#: Encoder-decoders that monoT5's form is published for. (Others have its label words by chance.)
T5S = ("t5", "mt5", "umt5", "longt5", "switch_transformers")


#: Encoders that do not mask padding: a pair's score would depend on what it is batched with.
_UNMASKED = ("convbert", "fnet", "nystromformer", "yoso")


def find_kind(reference: str, revision: str = "") -> Kind:
    """Return the kind that the checkpoint's config.json says. Raises :class:`UserError` for one that is no reranker's."""
    if reference.startswith("init:"):
        return random_models.kind_of(reference)
    config = load_config(reference, revision)
    found = kind_of(config)
    if found and gives_vectors(read_file(reference, revision)):
        raise UserError(bi_encoder(reference), code="checkpoint-kind")
    if found is None:
        raise UserError(refusal(reference, config.architectures, config.model_type), code="checkpoint-kind")
    if found == "encoder":
        check_masks(reference, config.model_type)
    return found


def check_masks(reference: str, model_type: str) -> None:
    """Raise :class:`UserError` for an encoder whose scores depend on the padding of a batch."""
    if model_type in _UNMASKED:
        raise UserError(
            f"{reference}: a {model_type} reads the padding of a batch too, so a pair has another score in another batch; give "
            "another checkpoint",
            code="checkpoint-kind",
        )


def starting_kind(reference: str, config: Mapping[str, Any]) -> Kind:
    """Return the kind of student that training can make of a checkpoint with this ``config.json``, without transformers.

    Of an encoder the head is no matter: one is made where none fits. Raises :class:`UserError` for what is none.
    """
    names, model_type = config.get("architectures") or [], str(config.get("model_type") or "")
    found = kind_by_name(names, bool(config.get("is_encoder_decoder")))
    if found == "monot5":
        found = found if model_type in (*T5S, "") else None
    elif found != "causal":
        both_ways = model_type in encoder_types() or (not model_type and found == "encoder")
        found = "encoder" if both_ways and not config.get("is_encoder_decoder") else None
    if found is None:
        name = (names or [model_type or "model without a type"])[0]
        raise UserError(
            f"{reference}: a {name} cannot be the student: that is a T5 (monoT5), an encoder (BERT, RoBERTa, DeBERTa, ELECTRA, "
            "ModernBERT and their kin) or a causal language model; give one as phase1.checkpoint",
            code="checkpoint-kind",
        )
    if found == "encoder":
        check_masks(reference, model_type)
    return found


@cache
def encoder_types() -> frozenset[str]:
    """Return the model types with a masked language model in the locked transformers (a test compares them)."""
    return frozenset((Path(__file__).parent / "encoder_types.txt").read_text(encoding="utf-8").split())


def refusal(reference: str, architectures: Sequence[str] | None, model_type: str) -> str:
    """Return the line about a checkpoint of no kind."""
    if not architectures:
        return (
            f"{reference}: a {model_type} is no reranker as far as it says: config.json names no architectures; set "
            "teacher.scoring.kind (encoder, causal) if it is one"
        )
    name = architectures[0]
    return (
        f"{reference}: a {name} is no reranker that is understood here{_why(name)}: that is a T5 (monoT5), "
        "a causal language model that answers yes or no, or a bidirectional encoder with a classification head"
    )


def _why(name: str) -> str:
    if name.endswith("Model"):
        return " (it gives vectors, as a bi-encoder does, and no score of a pair)"
    if name.endswith(("ForMaskedLM", "ForPreTraining")):
        return " (a language model that has not learnt to rank: it has no head that scores)"
    if name.endswith("ForSequenceClassification"):
        return " (with a head, it reads a prompt of its own; give the causal checkpoint that it was made from)"
    return ""


def bi_encoder(reference: str) -> str:
    """Return the line about a checkpoint that sentence-transformers' ``modules.json`` calls a bi-encoder."""
    return (
        f"{reference}: modules.json says that it gives vectors (a bi-encoder), and no score of a pair; give a reranker, or "
        "set teacher.scoring.kind if it is one all the same"
    )


def kind_of(config: Any) -> Kind | None:
    """As :func:`find_kind`, from the config as transformers reads it; None for what is none of them."""
    kind = kind_by_name(config.architectures, config.is_encoder_decoder)
    if kind == "monot5" and config.model_type not in T5S:
        return None
    return None if kind == "encoder" and not reads_both_ways(config) else kind


def kind_by_name(architectures: Sequence[str] | None, is_encoder_decoder: bool) -> Kind | None:
    """Return the kind that a model of this class is at most: whether a classifier reads both ways, transformers knows."""
    architecture = (architectures or [""])[0]
    if is_encoder_decoder:
        if architecture.endswith("EncoderModel"):
            return None
        return "monot5" if "For" not in architecture or architecture.endswith("ForConditionalGeneration") else None
    if architecture.endswith("ForSequenceClassification"):
        return "encoder"
    return "causal" if architecture.endswith(("ForCausalLM", "LMHeadModel")) else None


def reads_both_ways(config: Any) -> bool:
    """Return whether this is an encoder: one that has a masked language model.

    Decoders have classification heads too, but read a prompt of their own, not a pair.
    """
    return not config.is_encoder_decoder and config.model_type in encoder_types()
