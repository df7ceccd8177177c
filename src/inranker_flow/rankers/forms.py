"""What a checkpoint is taken for: kind, family, prompt, answers or labels; said in one line, and never guessed in silence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from inranker_flow import reading
from inranker_flow.config.sections import ScoringConfig
from inranker_flow.config.values import Kind
from inranker_flow.errors import UserError
from inranker_flow.rankers import families, files, labels, templates
from inranker_flow.rankers.checkpoints import locate, raw_config, read_file
from inranker_flow.rankers.kinds import find_kind

log = logging.getLogger(__name__)

#: Answers (false, true) of each kind, where neither the configuration nor the checkpoint's family names others.
ANSWERS: dict[Kind, tuple[str, str]] = {"monot5": ("▁false", "▁true"), "causal": ("no", "yes"), "encoder": ("", "")}


def settle(
    reference: str, scoring: ScoringConfig, revision: str = "", tell: bool = False
) -> tuple[Kind, ScoringConfig]:
    """Return the kind, and ``scoring`` with its prompt and answers (of an encoder: the names of its labels, where they
    decide).

    Raises :class:`UserError` where the checkpoint does not say them, naming the settings that do.
    """
    scoring = _own(reference, scoring)
    kind = find_kind(reference, revision) if scoring.kind == "auto" else scoring.kind
    if scoring.dtype == "int8" and kind != "monot5":
        raise UserError(
            f"{reference}: scoring.dtype int8 is for monoT5 teachers; set it to float32 or bfloat16",
            code="setting-conflict",
        )
    settled, told, assumed = {"monot5": _monot5, "causal": _causal, "encoder": _encoder}[kind](
        reference, scoring, revision
    )
    if tell:
        log.log(logging.WARNING if assumed else logging.INFO, "%s: %s", reference, told)
    return kind, settled


def _own(reference: str, scoring: ScoringConfig) -> ScoringConfig:
    """Return ``scoring`` with what a student's folder says of its kind, prompt and answers, where nothing else is set."""
    if scoring.kind != "auto" or scoring.prompt or reference.startswith("init:"):
        return scoring
    folder = locate(reference)
    own = reading.of_folder(folder) if folder else None
    if own is None or own.kind == "encoder":
        return scoring
    false, true = scoring.false_token or own.false_token, scoring.true_token or own.true_token
    found = replace(scoring, kind=own.kind, false_token=false, true_token=true)
    return found if own.kind == "monot5" else replace(found, prompt=own.prompt, instruction=own.instruction)


def identity(reference: str, scoring: ScoringConfig, revision: str = "") -> ScoringConfig:
    """Return ``scoring`` as it changes a score: with the prompt's text, and answers where they are not their kind's usual
    ones."""
    kind, settled = settle(reference, scoring, revision)
    usual_false, usual_true = ANSWERS[kind]
    false = "" if settled.false_token == usual_false else settled.false_token
    true = "" if settled.true_token == usual_true else settled.true_token
    # Where no prompt is read, it is the one that has always stood here.
    prompt = settled.prompt if kind == "causal" else scoring.prompt or families.FAMILIES[0].name
    return replace(settled, false_token=false, true_token=true, prompt=templates.read(prompt))


_Settled = tuple[ScoringConfig, str, bool]


def _monot5(reference: str, scoring: ScoringConfig, revision: str) -> _Settled:
    false, true = ANSWERS["monot5"]
    if not reference.startswith(("init:", "demo:", "models:")) and not (scoring.false_token and scoring.true_token):
        names, _ = _said(reference, revision)
        if scoring.kind == "auto":
            families.check_known(reference, names)
        false, true = families.monot5_answers(names) or (false, true)
    false, true = scoring.false_token or false, scoring.true_token or true
    told = f"taken for a monoT5: prompt `Query: ... Document: ... Relevant:`, answers {false!r} and {true!r}"
    return replace(scoring, false_token=false, true_token=true), told, False


def _causal(reference: str, scoring: ScoringConfig, revision: str) -> _Settled:
    prompt, why, assumed = scoring.prompt, "scoring.prompt", False
    if prompt:
        templates.load(prompt, scoring.instruction)  # refused before anything is read
        family = families.named(prompt)
    else:
        names, config = _said(reference, revision)
        if config.get("is_encoder_decoder"):
            raise UserError(
                f"{reference}: a {config.get('model_type')} checkpoint is no causal language model",
                code="checkpoint-kind",
            )
        chat = files.chat_templates(read_file(reference, revision))
        family, why = families.find(reference, str(config.get("model_type", "")), names, chat)
        prompt, assumed = family.name, not why
        why = (
            f"known by {why}"
            if why
            else f"by its model type alone: nothing else says what this {config.get('model_type')} is"
        )
    false, true = (family.false, family.true) if family else ANSWERS["causal"]
    false, true = scoring.false_token or false, scoring.true_token or true
    shown = family.name if family else "the profile's own"
    answers = f"answers {false!r} and {true!r}" if false else f"answer {true!r}, its logit alone"
    told = f"taken for a causal reranker: prompt {shown} ({why}), {answers}"
    return replace(scoring, prompt=prompt, false_token=false, true_token=true), told, assumed


def _encoder(reference: str, scoring: ScoringConfig, revision: str) -> _Settled:

    head = labels.find(reference, raw_config(reference, revision), scoring.false_token, scoring.true_token)
    usual = (head.false, head.true) in ((None, 0), (0, 1))
    false, true = ("", "") if usual else head.names
    return replace(scoring, false_token=false, true_token=true), f"taken for a cross-encoder: {head.told}", head.assumed


def family_of(reference: str, revision: str = "") -> families.Family | None:
    """Return the family of a causal checkpoint; None for one that is no published reranker."""
    names, config = _said(reference, revision)
    try:
        chat = files.chat_templates(read_file(reference, revision))
        family, why = families.find(reference, str(config.get("model_type", "")), names, chat)
    except UserError:
        return None
    return family if why else None  # a model type alone is no reranker's


def _said(reference: str, revision: str) -> tuple[Sequence[str], dict[str, Any]]:
    """Return the checkpoint's name and its config.json."""

    config = raw_config(reference, revision)
    folder = locate(reference)
    # On the hub its name says it; a folder may have any name.
    read = read_file(reference, revision) if folder else (lambda name: None)
    return files.names_of(reference, config, read, folder), config
