"""A teacher behind a server that does not do its part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inranker_flow.config.sections import TeacherConfig
from tests.inputs.table import PASSWORD, Input, stage
from tests.rerank_server import RerankServer


@dataclass(frozen=True)
class Said:
    """A stage's answer."""

    pairs: int = 0


def ask(teacher: TeacherConfig) -> Said:
    """What preflight does with it."""
    from inranker_flow.preflight.teachers import check_teachers

    print(check_teachers(teacher))
    return Said()


def served(
    api: str = "score", scores: str = "logit", fields: dict[str, Any] | None = None, **server: Any
) -> Callable[[Path], int]:
    def act(here: Path) -> int:
        with RerankServer(**server) as running:
            asked = {"endpoint": running.url, "api": api, "scores": scores, "request_fields": fields or {}}
            return stage(ask, configs={"teacher": {"checkpoint": "big-reranker", "backend": "server", "server": asked}})

    return act


def answers(answer: Any) -> Callable[[int], Any]:
    return lambda number: lambda usual: answer(usual) if callable(answer) else answer


def scored(value: Any) -> Callable[[int], Any]:
    return answers({"data": [{"index": 0, "score": value}], "usage": None})


INPUTS = [
    Input("a server that scores", served(), ("big-reranker is served at",), 0),
    Input("usage that is none", served(trouble=scored(1.5)), ("big-reranker is served at",), 0),
    Input("a key that is refused", served(key="another"), ("HTTP 401", "TEACHER_API_KEY"), env=(("TEACHER_API_KEY", PASSWORD),)),
    Input("no such model", served(model="small"), ("HTTP 404 The model `big-reranker` does not exist",)),
    Input("TEI with another model", served("tei", model="small"), ("serves small and not big-reranker", "teacher.checkpoint")),
    Input("half an answer", served(trouble=lambda number: "half"), ("an answer that cannot be read", "and so 2 times")),
    Input("a server in trouble", served(trouble=lambda number: 503), ("HTTP 503 trouble, on purpose, and so 2 times",)),
    Input("a page", served(trouble=answers("<html>")), ("where a list data is due", "teacher.server.api")),
    Input("a number", served(trouble=answers(3)), ("answers 3 where a list data is due",)),
    Input("an error with status 200", served("tei", trouble=answers({"error": "x"})), ("where a list of scores is due",)),
    Input("no score", served(trouble=answers({"data": []})), ("gives 0 scores for the 1 pairs",)),
    Input("another index", served(trouble=answers({"data": [{"index": 1, "score": 0}]})), ("pair 1 of the 1",)),
    Input("an index with a point", served(trouble=answers({"data": [{"index": 0.5, "score": 0}]})), ("no index",)),
    Input("a score that is true", served(trouble=scored(True)), ("no index with a score",)),
    Input("a score in a list, as early vLLM's", served(trouble=scored([1.0])), ("no index with a score",)),
    Input("NaN", served(trouble=scored(math.nan)), ("gives the score nan",)),
    Input("a probability of 2", served(scores="probability", trouble=scored(2)), ("probability, but", "set it to logit")),
    Input("a field of ours", served(fields={"text_1": "x"}), ("teacher.server.request_fields: text_1 cannot be set",)),
]  # fmt: skip
