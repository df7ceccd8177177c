"""What a version was trained on, in its tags: one for each corpus, and one for the configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from inranker_flow.config.sections import CorpusConfig
from inranker_flow.model_registry import registry

#: Tags of a version: identity of the corpus NAME, and of the configuration; digest of the training set of NAME; why the
#: target NAME was left out of its training.
CORPUS_TAG, WORK_TAG, DATA_TAG = "inranker.corpus.", "inranker.work", "digest.data."
LEFT_OUT_TAG = "inranker.left_out."


def identity(corpus: CorpusConfig) -> str:
    """Return the identity of ``corpus`` as training data: its content (its address where that is unknown) and how it is read."""
    return sha256(json.dumps(corpus.content, sort_keys=True).encode()).hexdigest()[:32]


def trained_on(targets: Sequence[CorpusConfig], work: str, without: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return tags of a version that say what it was trained on, and ``without`` which targets (name -> why)."""
    gone = {f"{LEFT_OUT_TAG}{name}": why[:1000] for name, why in (without or {}).items()}
    return {**{f"{CORPUS_TAG}{each.name}": identity(each) for each in targets}, WORK_TAG: work, **gone}


@dataclass(frozen=True)
class Known:
    """The training data of a version: name -> identity, and name -> digest of the training set; ``work`` is its configuration,
    ``version`` names it, ``without`` are the targets that were left out."""

    corpora: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    work: str = ""
    version: str = ""
    without: frozenset[str] = frozenset()


def last_known(name: str, work_key: str) -> Known:
    """Return the training data of the champion, or of the last challenger if it was held against this champion."""
    champion, challenger = registry.champion(name), registry.challenger(name)
    versions = [each for each in (champion, challenger) if each]
    if challenger and challenger.tags.get("inranker.against", "") != (champion.reference if champion else ""):
        versions.remove(challenger)
    read = [_read_tags(each) for each in versions]
    # The newest that was made in this way: what it was held for, it would be held for again.
    same = [each for each in read if each.work == work_key]
    return [Known(), *read[:1], *same][-1]


def _read_tags(version: registry.Version) -> Known:
    corpora, data, without = (
        {tag.removeprefix(prefix): value for tag, value in version.tags.items() if tag.startswith(prefix)}
        for prefix in (CORPUS_TAG, DATA_TAG, LEFT_OUT_TAG)
    )
    return Known(corpora, data, version.tags.get(WORK_TAG, ""), version.reference, frozenset(without))
