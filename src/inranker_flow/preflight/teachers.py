"""Whether the teachers are there: checkpoints, or servers that score a pair."""

from __future__ import annotations

import dataclasses

from inranker_flow.config.sections import Teacher, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.preflight.checkpoints import check_teacher
from inranker_flow.scoring.rerank_server import RerankServer

#: Seconds for an answer: this is no time to wait for a server that is just starting.
_TIMEOUT = 10.0
#: What a server is asked for: key, route, model and the form of its answer show in it.
_PAIR = ("what is the moon", "The moon is a rock in the sky.")


def check_teachers(config: TeacherConfig) -> str:
    """Look at each checkpoint (see :func:`check_teacher`); ask each server for the score of one pair."""
    return "; ".join(_check(section, each) for section, each in config.named.items())


def _check(section: str, teacher: Teacher) -> str:
    if teacher.backend == "server":
        return _ask(section, teacher)
    try:
        return check_teacher(teacher)
    except UserError as error:
        if section == "teacher":
            raise
        raise UserError(f"{section}: {error}", code=error.code) from error


def _ask(section: str, teacher: Teacher) -> str:
    quick = dataclasses.replace(teacher.server, retries=1, request_timeout=_TIMEOUT)
    server = RerankServer(dataclasses.replace(teacher, server=quick), section)
    server.check_model()
    server.ask([_PAIR])
    return f"{teacher.checkpoint} is served at {server.endpoint.url}"
