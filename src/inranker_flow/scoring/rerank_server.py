"""A server that scores pairs: what it is asked, and what is made of its answers."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import urllib3

from inranker_flow.config.sections import Teacher
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.scoring.rerank_apis import APIS, CLIP, check_server, tokens
from inranker_flow.services.endpoint import Address, Endpoint, Refused

log = logging.getLogger(__name__)

Pair = tuple[str, str]

#: So many scores, all between 0 and 1, are taken for probabilities.
_ENOUGH = 64
#: TEI's words, and others', for too many pairs.
_TOO_MANY = re.compile(r"batch size", re.I)


@dataclass(frozen=True)
class Answer:
    """The ``scores`` of the pairs of one request, in their order."""

    scores: np.ndarray
    tokens: int


class RerankServer:
    """The server of a teacher; ``section`` is the key of its section. Usable from many threads.

    Raises :class:`UserError` for an address that is none, and for fields of requests that are not the user's to set.
    """

    def __init__(self, teacher: Teacher, section: str = "teacher") -> None:
        server = teacher.server
        self.teacher, self.section, self.api = teacher, section, APIS[server.api]
        check_server(teacher, section)
        self.endpoint = Endpoint(
            Address(
                url=server.endpoint,
                setting=f"{section}.server.endpoint",
                variable=variables.TEACHER_KEY,
                form="http://HOST:PORT",
                route=self.api.route,
                concurrency=server.concurrency,
                timeout=server.request_timeout,
                retries=server.retries,
                key=variables.teacher_key(),
                secret="inranker-hub",
            )
        )
        self._lock = threading.Lock()
        self._seen, self._least, self._most, self._told = 0, math.inf, -math.inf, False

    def check_model(self) -> None:
        """Raise :class:`UserError` where the server serves another model: TEI's requests do not name one."""
        if self.teacher.server.api != "tei":
            return
        found = self.endpoint.look(f"{self.endpoint.url}/info")
        served = found.get("model_id") if isinstance(found, dict) else None
        if served is not None and served != self.teacher.checkpoint:
            raise UserError(
                f"{self.endpoint.url}: serves {served} and not {self.teacher.checkpoint}; set {self.section}.checkpoint to "
                f"that name, or {self.section}.server.endpoint to the server that has it",
                code="model-not-served",
            )

    def batches(self, queries: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the places of the pairs of each request; ``queries``: the number of each pair's query."""
        order = np.argsort(queries, kind="stable")
        starts = np.flatnonzero(np.diff(queries[order])) + 1 if self.api.one_query else np.empty(0, np.int64)
        size = self.teacher.server.request_pairs
        for group in np.split(order, starts):
            for at in range(0, len(group), size):
                yield group[at : at + size]

    def ask(self, pairs: Sequence[Pair]) -> Answer:
        """Return the scores of the pairs of one request. Raises :class:`UserError` for an answer that holds others."""
        server = self.teacher.server
        asked = [(query, self._cut(passage)) for query, passage in pairs]
        body = self.api.request(self.teacher.checkpoint, asked, server.scores == "logit")
        data = json.dumps({**body, **server.request_fields}).encode()
        try:
            found = self.endpoint.exchange("POST", self.api.route, data, lambda answer: self._read(answer, len(pairs)))
        except Refused as refused:
            raise self._in_our_words(refused) from refused
        self._look(found.scores)
        return found if server.scores == "logit" else Answer(self._log_odds(found.scores), found.tokens)

    def _cut(self, passage: str) -> str:
        most = self.teacher.server.passage_characters
        return passage[:most] if most else passage

    def _in_our_words(self, refused: Refused) -> UserError:
        server, said = f"{self.section}.server", str(refused).rpartition(";")[0]
        if refused.too_long:
            return UserError(
                f"{said}; set {server}.passage_characters, or a field of the server's own that cuts in "
                f"{server}.request_fields (vLLM: truncate_prompt_tokens)",
                code="server-refused",
            )
        if _TOO_MANY.search(said):
            return UserError(f"{said}; lower {server}.request_pairs", code="server-refused")
        return refused

    # --- answers

    def _read(self, answer: urllib3.BaseHTTPResponse, count: int) -> Answer:
        """Raises ValueError for what is no JSON: that is asked for again."""
        found = json.loads(answer.data)
        items = found
        if self.api.items:
            items = found.get(self.api.items) if isinstance(found, dict) else None
        if not isinstance(items, list):
            raise self._misbehaves(
                f"answers {_shown(found)} where a list {self.api.items or 'of scores'} is due", api=True
            )
        scores = np.full(count, np.nan)
        seen = np.zeros(count, bool)
        for item in items:
            place, score = self._item(item)
            if not 0 <= place < count:
                raise self._misbehaves(
                    f"gives a score for pair {place} of the {count} that it was asked for (0 to {count - 1})"
                )
            if seen[place]:
                raise self._misbehaves(f"gives two scores for pair {place} of a request")
            if not math.isfinite(score):
                raise UserError(
                    f"{self.endpoint.url}: {self.teacher.checkpoint} gives the score {score} for a pair; look at that "
                    "server's log and its dtype (float16 overflows in some models)",
                    code="logits-not-finite",
                )
            scores[place], seen[place] = score, True
        if not seen.all():
            raise self._misbehaves(
                f"gives {seen.sum()} scores for the {count} pairs of a request; it may cut the list (top_n)"
            )
        return Answer(scores, tokens(found, answer.headers))

    def _item(self, item: Any) -> tuple[int, float]:
        """Return the place of a pair in its request, and the score."""
        place, score = (item.get("index"), item.get(self.api.score)) if isinstance(item, dict) else (None, None)
        known = type(place) is int and type(score) in (int, float)
        if place is None or score is None or not known:
            raise self._misbehaves(f"gives {_shown(item)}, which is no index with a {self.api.score}", api=True)
        return place, float(score)

    def _misbehaves(self, what: str, api: bool = False) -> UserError:
        server = f"{self.section}.server"
        remedy = (
            f"set {server}.api to the server's own" if api else f"look at that server, or lower {server}.request_pairs"
        )
        return UserError(f"{self.endpoint.url}: {what}; {remedy}", code="server-misbehaves")

    def _log_odds(self, probabilities: np.ndarray) -> np.ndarray:
        wrong = probabilities[(probabilities < 0) | (probabilities > 1)]
        if wrong.size:
            raise UserError(
                f"{self.section}.server.scores: probability, but {self.teacher.checkpoint} gives {wrong[0]:g}; set it to logit",
                code="scores-no-probabilities",
            )
        clipped = np.clip(probabilities, CLIP, 1 - CLIP)
        found: np.ndarray = np.log(clipped) - np.log1p(-clipped)
        return found

    def _look(self, scores: np.ndarray) -> None:
        """Warn once of logits that look like probabilities."""
        with self._lock:
            self._seen += len(scores)
            self._least, self._most = min(self._least, scores.min()), max(self._most, scores.max())
            doubtful = self._seen >= _ENOUGH and self._least >= 0 and self._most <= 1
            if self.teacher.server.scores == "probability" or self._told or not doubtful:
                return
            self._told = True
        log.warning(
            "%s: the first %s scores are all between 0 and 1, as probabilities are: set %s.server.scores to probability, or "
            "ask for logits by %s.server.request_fields (vLLM's /rerank: use_activation: false)",
            self.teacher.checkpoint, f"{self._seen:,}", self.section, self.section,
        )  # fmt: skip

    @property
    def seen(self) -> tuple[float, float]:
        """The least and the largest score that it gave, as it gave it."""
        return self._least, self._most


def _shown(value: Any) -> str:
    return json.dumps(value)[:120]
