"""The systems that rerank: what each is, how it reads and is served, and what its scores and its speed depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow import reading
from inranker_flow.config.parsing import as_dict, deciding
from inranker_flow.config.sections import ScoringConfig, Teacher
from inranker_flow.evaluation import serving_cost
from inranker_flow.labelling.average import Level
from inranker_flow.labelling.label_store import identity_of, label_identity
from inranker_flow.model_registry import registry
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.reading import WHOLE, Passages, Served
from inranker_flow.scoring.job import Checkpoint
from inranker_flow.storage.local import digest_file

TEACHER, CHAMPION = "teacher", "champion"
#: What decides a checkpoint's scores; what else lies in its folder does not.
_DECISIVE = ("config.json", "*.safetensors", "*.bin", "*.model", "tokenizer*.json")


@dataclass(frozen=True)
class System:
    """A system that reranks; two with the same ``identity`` give the same scores.

    ``asked`` and ``passages`` are what the profile says. A student reads as its folder says, and a registered version is
    served as its registration says: see ``scoring`` and ``served``.
    """

    name: str
    reference: str
    revision: str
    asked: ScoringConfig
    passages: Passages = WHOLE
    #: Of a teacher: the key of its section.
    section: str = ""
    #: A teacher that is asked at its server.
    server: Teacher | None = None
    #: The teachers whose average it is, and the levels of their scores by data set, as labelling found them.
    parts: tuple[System, ...] = ()
    levels: Mapping[str, Sequence[Level]] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        if self.parts:
            levels = {dataset: [asdict(each) for each in found] for dataset, found in self.levels.items()}
            return {"average": [each.identity for each in self.parts], "levels": levels}
        return {
            "weights": self.labels if self.server else self.digest or [self.reference, self.revision],
            "scoring": deciding(self.scoring),
            "passages": as_dict(self.served.passages),
        }

    @cached_property
    def folder(self) -> Path | None:
        """Where its files are; None for one that comes from the hub or is made on the spot."""
        nowhere = self.server or self.parts or self.reference.startswith("init:")
        return None if nowhere else locate(self.reference)

    @cached_property
    def labels(self) -> dict[str, Any]:
        """The identity of a teacher's labels."""
        return identity_of(self.server) if self.server else label_identity(self.checkpoint)

    @cached_property
    def size_mb(self) -> float | None:
        """See `serving_cost.size_mb`; of an average the sum, and None for one behind a server."""
        if self.parts:
            sizes = [each.size_mb for each in self.parts]
            known = [each for each in sizes if each is not None]
            return sum(known) if len(known) == len(sizes) else None
        return None if self.server else serving_cost.size_mb(self.reference, self.revision)

    @cached_property
    def served(self) -> Served:
        """What it is served with, and so measured with, beside what its folder says."""
        if self.reference.startswith("models:"):
            return registry.served(self.reference)
        return Served(self.passages.words, self.passages.stride, self.asked.dtype)

    @cached_property
    def scoring(self) -> ScoringConfig:
        asked = replace(self.asked, dtype=self.served.dtype)
        # The teacher reads as its labels were made.
        return (
            asked
            if self.name == TEACHER or self.section or self.folder is None
            else reading.scoring_of(self.folder, asked)
        )

    @cached_property
    def digest(self) -> str:
        """Of a checkpoint's content; "" for one without a folder."""
        if self.folder is None:
            return ""
        files = sorted({path for pattern in _DECISIVE for path in self.folder.glob(pattern)})
        return sha256("\n".join(f"{path.name} {digest_file(path)}" for path in files).encode()).hexdigest()

    @cached_property
    def shape(self) -> str:
        """What its speed depends on: models of one shape take equally long for the same pairs. "" where it is not known."""
        config = serving_cost.shape(self.folder) if self.folder else ""
        return config and json.dumps([config, as_dict(self.scoring), self.identity["passages"]], sort_keys=True)

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.reference, self.revision, self.scoring)

    @property
    def fetched(self) -> Checkpoint:
        """As :attr:`checkpoint`, for processes that know no registry."""
        registered = self.reference.startswith("models:")
        return replace(self.checkpoint, reference=str(self.folder)) if registered else self.checkpoint
