"""A checkpoint becomes a student, of the kind that its config.json says."""

from __future__ import annotations

import logging

from inranker_flow.config.sections import DistillConfig
from inranker_flow.config.values import Kind
from inranker_flow.errors import UserError
from inranker_flow.rankers import random_models
from inranker_flow.rankers.checkpoints import load_config
from inranker_flow.rankers.kinds import starting_kind
from inranker_flow.students import adapters
from inranker_flow.students.base import Student
from inranker_flow.students.causal import CausalStudent
from inranker_flow.students.encoder import EncoderStudent
from inranker_flow.students.monot5 import MonoT5Student

log = logging.getLogger(__name__)

KINDS: dict[Kind, type[Student]] = {"monot5": MonoT5Student, "encoder": EncoderStudent, "causal": CausalStudent}


def load_student(reference: str, config: DistillConfig, revision: str = "") -> Student:
    """Load the checkpoint ``reference`` (see `rankers.checkpoints`) in float32, to be trained as ``config`` says.

    Raises :class:`inranker_flow.errors.UserError` for a checkpoint that is not there or of no kind.
    """
    if reference.startswith("init:"):
        kind = random_models.kind_of(reference)
    else:
        kind = starting_kind(reference, load_config(reference, revision).to_dict())
    adapters.check(reference, kind, config)
    student = KINDS[kind](reference, config, revision)
    weights = list(student.model.parameters())
    if bad := [name for name, each in student.model.named_parameters() if not each.isfinite().all()]:
        raise UserError(
            f"{reference}: {len(bad)} of its {len(weights)} weights hold numbers that are not finite, first {bad[0]}; give "
            "another checkpoint",
            code="checkpoint-damaged",
        )
    parameters = sum(each.numel() for each in weights)
    log.info("%s: a student of the kind %s with %.1fM parameters", reference, kind, parameters / 1e6)
    if config.lora_rank:
        moved = sum(each.numel() for each in weights if each.requires_grad)
        log.info("adapters of rank %s: %.3fM of them are trained", config.lora_rank, moved / 1e6)
    return student
