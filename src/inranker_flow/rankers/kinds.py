"""Which ranker a checkpoint is made for."""

from __future__ import annotations

from typing import Any, Literal

from inranker_flow.errors import UserError

Kind = Literal["monot5", "causal", "encoder"]


def find_kind(reference: str, revision: str = "") -> Kind:
    """The kind that the checkpoint's config.json says. Raises :class:`UserError` for one that is no reranker's."""
    # This project's own are T5s; asking the registry would fetch the whole model.
    if reference.partition(":")[0] in ("init", "models"):
        return "monot5"
    from inranker_flow.rankers.checkpoints import load_config

    config = load_config(reference, revision)
    found = kind_of(config)
    if found is None:
        name = (config.architectures or [config.model_type])[0]
        raise UserError(
            f"{reference}: a {name} is no reranker that is understood here: that is a T5 (monoT5), a causal language "
            "model that answers yes or no, or a bidirectional encoder with a classification head"
        )
    return found


def kind_of(config: Any) -> Kind | None:
    """As :func:`find_kind`, from the config as transformers reads it; None for what is none of them."""
    architecture = (config.architectures or [""])[0]
    if config.is_encoder_decoder:
        return "monot5" if "For" not in architecture or architecture.endswith("ForConditionalGeneration") else None
    if architecture.endswith("ForSequenceClassification"):
        return "encoder" if reads_both_ways(config) else None
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    return None


def reads_both_ways(config: Any) -> bool:
    """Whether this is an encoder: one that has a masked language model.

    Decoders have classification heads too, but read a prompt of their own, not a pair.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return not config.is_encoder_decoder and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
