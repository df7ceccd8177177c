"""Which ranker a checkpoint is made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from inranker_flow.errors import UserError
from inranker_flow.rankers.checkpoints import load_config, read_file
from inranker_flow.rankers.files import gives_vectors

Kind = Literal["monot5", "causal", "encoder"]

#: Encoder-decoders that monoT5's form is published for. (Others have its label words by chance.)
T5S = ("t5", "mt5", "umt5", "longt5", "switch_transformers")


def find_kind(reference: str, revision: str = "") -> Kind:
    """Return the kind that the checkpoint's config.json says. Raises :class:`UserError` for one that is no reranker's."""
    # This project's own are T5s; asking the registry would fetch the whole model.
    if reference.partition(":")[0] in ("init", "models"):
        return "monot5"

    config = load_config(reference, revision)
    found = kind_of(config)
    if found and gives_vectors(read_file(reference, revision)):
        raise UserError(bi_encoder(reference), code="checkpoint-kind")
    if found is None:
        raise UserError(refusal(reference, config.architectures, config.model_type), code="checkpoint-kind")
    return found


def refusal(reference: str, architectures: Sequence[str] | None, model_type: str) -> str:
    """Return the line about a checkpoint of no kind."""
    name = (architectures or [model_type])[0]
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
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return not config.is_encoder_decoder and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
