"""How a student reads: what evaluation measures with, serving serves with and the model card tells.

One source of truth for each half. What a student was trained with (length, truncation, answers) lies in its own folder,
`scoring.json`. What an evaluation measured it with beside that (passages, precision) is registered with the version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from inranker_flow.config.parsing import as_dict, parse
from inranker_flow.config.sections import DistillConfig, ScoringConfig
from inranker_flow.config.values import Count, Kind, Positive, Prompt
from inranker_flow.errors import UserError
from inranker_flow.words import split

#: In a student's folder, beside the weights.
FILENAME = "scoring.json"
#: Where folders of earlier days say it.
_RECORD = "training.json"


@dataclass(frozen=True)
class Trained:
    """The reading settings in a student's folder: the settings of `ScoringConfig` with these names."""

    max_length: Positive
    truncation: Literal["document", "reference"]
    #: Answers of a monoT5 or a causal model; empty for an encoder, whose one label is the score.
    true_token: str
    false_token: str
    #: Folders of earlier days hold monoT5s and do not say so.
    kind: Kind = "monot5"
    #: Of a causal model: the template's text.
    prompt: Prompt = ""
    instruction: Prompt = ""

    def settings(self) -> dict[str, Any]:
        """Return what it decides of a `ScoringConfig`: a prompt's text only where the kind reads one."""
        without = set() if self.kind == "causal" else {"prompt", "instruction"}
        return {name: value for name, value in as_dict(self).items() if name not in without}


#: What a training was that did not say it.
_DEFAULTS = {
    "max_length": DistillConfig.max_length,
    "truncation": "document",
    "true_token": "▁true",
    "false_token": "▁false",
}
#: Settings of `ScoringConfig` that a student's folder decides.
NAMES = tuple(each.name for each in fields(Trained))


@dataclass(frozen=True)
class Passages:
    """Reading of a long document: passages of ``words`` words, ``stride`` apart (0: half a passage); its score is that of the
    best. 0 ``words``: as one, cut at `max_length`."""

    words: Count = 0
    stride: Count = 0

    def cut(self, text: str) -> list[str]:
        """Return the passages of a document that are scored. The last passage ends where the document ends, so none is a stub."""
        words, between = split(text) if self.words else ([], "")
        if len(words) <= self.words:
            return [text]
        last = len(words) - self.words
        firsts = [*range(0, last, self.stride or max(1, self.words // 2)), last]
        return [between.join(words[first : first + self.words]).strip() for first in firsts]


#: What is read as one.
WHOLE = Passages()


@dataclass(frozen=True)
class Served:
    """The serving settings of a version that its folder does not hold."""

    passage_words: Count = 0
    passage_stride: Count = 0
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"

    @property
    def passages(self) -> Passages:
        return Passages(self.passage_words, self.passage_stride)


def of_record(record: Mapping[str, Any], where: str = "training.json") -> Trained:
    """Return how the student of a training.json reads; older ones say it in their configuration, and are monoT5s'.

    ``where`` begins what is said of a bad one.
    """
    if "reads" in record:
        return parse(Trained, record["reads"], where)
    config = {**_DEFAULTS, **record["config"]}
    return parse(Trained, {name: config[name] for name in _DEFAULTS}, where)


def of_folder(folder: Path) -> Trained | None:
    """Return the reading settings of a student's folder; None for another folder."""
    for name in (FILENAME, _RECORD):
        path = folder / name
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder}: no usable {name}, which says how the model reads; restore it ({error})",
                code="model-foreign",
            ) from error
        if name == FILENAME:
            return parse(Trained, found, str(path))
        config = found.get("config") if isinstance(found, dict) else None
        if isinstance(config, dict) and "max_length" in config:  # else somebody else's file of that name
            return of_record(found, str(path))
    return None


def scoring_of(folder: Path, otherwise: ScoringConfig) -> ScoringConfig:
    """Return ``otherwise``, but for what ``folder`` says of how its model reads."""
    found = of_folder(folder)
    return replace(otherwise, **found.settings()) if found else otherwise


def unused(asked: ScoringConfig, used: ScoringConfig) -> dict[str, Any]:
    """Return settings that somebody set in ``asked`` and that count for nothing where ``used`` is a student's: name -> what
    counts instead."""
    default = ScoringConfig()
    counts = {name: getattr(used, name) for name in NAMES}
    if used.kind != "causal":  # which reads no template
        counts |= {"prompt": default.prompt, "instruction": default.instruction}
    return {name: it for name, it in counts.items() if getattr(asked, name) not in (it, getattr(default, name))}
