"""The teacher as a system that is measured: one, one behind a server, or the average of several."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import Teacher, TeacherConfig
from inranker_flow.evaluation.systems import TEACHER, System
from inranker_flow.labelling.average import Level
from inranker_flow.labelling.label_store import identity_of
from inranker_flow.model_registry import licences
from inranker_flow.reading import Passages

log = logging.getLogger(__name__)


def system(teacher: TeacherConfig, labels: Sequence[Path], passages: Passages) -> System:
    """Return the teacher; of several the average, by the levels that the training sets ``labels`` were made with."""
    parts = tuple(_one(section, each, passages) for section, each in teacher.named.items())
    if len(parts) == 1:
        return parts[0]
    name = " + ".join(each.reference for each in parts)
    return System(TEACHER, name, "", teacher.scoring, passages, "teacher", parts=parts, levels=_levels(teacher, labels))


def licence(teacher: TeacherConfig) -> str:
    """Return the licences that the teachers name; "" for one behind a server."""
    local = [each for each in teacher.all if each.backend == "local"]
    return " and ".join(filter(None, dict.fromkeys(licences.of_checkpoint(e.checkpoint, e.revision) for e in local)))


def _one(section: str, teacher: Teacher, passages: Passages) -> System:
    name = TEACHER if section == TEACHER else section
    served = teacher if teacher.backend == "server" else None
    return System(name, teacher.checkpoint, teacher.revision, teacher.scoring, passages, section, served)


def _levels(teacher: TeacherConfig, labels: Sequence[Path]) -> Mapping[str, Sequence[Level]]:
    """Return data set -> the level of each teacher's scores there; without those that other teachers have labelled."""
    found = {}
    identities = [identity_of(each) for each in teacher.all]
    for folder in labels:
        manifest = read_manifest(folder)
        told = manifest.details.get("teachers") or []
        if [each["identity"] for each in told] == identities:
            found[manifest.dataset] = [Level(each["mean"], each["deviation"]) for each in told]
    return found
