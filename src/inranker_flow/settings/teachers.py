"""What the sections of several teachers, and of one behind a server, mean together."""

from __future__ import annotations

from collections.abc import Iterator

from inranker_flow.config.parsing import deciding
from inranker_flow.config.sections import ScoringConfig, Teacher, TeacherConfig
from inranker_flow.config.server import ServerConfig
from inranker_flow.errors import UserError
from inranker_flow.scoring.rerank_apis import check_server


def local(config: TeacherConfig) -> Iterator[tuple[str, Teacher]]:
    """Yield the key and the section of each teacher that a stage loads; those behind a server are checked here.

    Raises :class:`UserError` for settings that do not fit together, and for one teacher that is there twice.
    """
    seen: dict[str, str] = {}
    for key, teacher in config.named.items():
        if teacher.backend == "server":
            check_server(teacher, key)
        same = seen.setdefault(repr(_model(teacher)), key)
        if same != key:
            raise UserError(
                f"{key}.checkpoint: {teacher.checkpoint} is the teacher of {same} once more, which changes no average; leave "
                "it out",
                code="setting-conflict",
            )
        if teacher.backend == "local":
            yield key, teacher


def notes(config: TeacherConfig) -> Iterator[str]:
    """Yield a line for each section that counts for nothing, because its teacher is not where it looks."""
    for key, teacher in config.named.items():
        if teacher.backend == "server" and teacher.scoring != ScoringConfig():
            yield (
                f"{key}.scoring: is not used, as {key}.backend is server: lengths and prompts are the server's affair "
                f"({key}.server.request_fields)"
            )
        if teacher.backend == "local" and teacher.server != ServerConfig():
            yield f"{key}.server: is not used, as {key}.backend is local; set it to server"


def _model(teacher: Teacher) -> object:
    return {name: value for name, value in deciding(teacher).items() if name != "also"}
