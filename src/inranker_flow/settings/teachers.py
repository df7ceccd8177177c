"""What the sections of several teachers, and of one behind a server, mean together."""

from __future__ import annotations

from collections.abc import Iterator

from inranker_flow.config.parsing import deciding
from inranker_flow.config.sections import ScoringConfig, Teacher, TeacherConfig
from inranker_flow.config.server import ServerConfig
from inranker_flow.errors import UserError
from inranker_flow.scoring.rerank_server import check_server


def local(config: TeacherConfig) -> Iterator[tuple[str, Teacher]]:
    """Yield the key and the section of each teacher that a stage loads; those behind a server are checked here.

    Raises :class:`UserError` for settings that do not fit together, and for one teacher that is there twice.
    """
    seen: dict[str, str] = {}
    for key, teacher in config.named.items():
        _check(key, teacher)
        same = seen.setdefault(repr(_model(teacher)), key)
        if same != key:
            raise UserError(
                f"{key}.checkpoint: {teacher.checkpoint} is the teacher of {same} once more, which changes no average; leave "
                "it out",
                code="setting-conflict",
            )
        if teacher.backend == "local":
            yield key, teacher


def _check(key: str, teacher: Teacher) -> None:
    if teacher.backend == "server":
        check_server(teacher, key)
        # How long prompts may be, and how they are computed, is the server's affair.
        if teacher.scoring != ScoringConfig():
            raise UserError(
                f"{key}.scoring: is for a teacher that is loaded here, and {key}.backend is server; leave it out, and say in "
                f"{key}.server.request_fields what the server takes",
                code="setting-conflict",
            )
    elif teacher.server != ServerConfig():
        raise UserError(
            f"{key}.server: is for {key}.backend server, and this one is local; set {key}.backend to server, or leave it out",
            code="setting-conflict",
        )


def _model(teacher: Teacher) -> object:
    return {name: value for name, value in deciding(teacher).items() if name != "also"}
