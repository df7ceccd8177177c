"""Requests to a server with OpenAI's API: sent again when that helps, and refused in one line when it does not."""

from __future__ import annotations

import email.utils
import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import urllib3

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.environment import variables
from inranker_flow.errors import NoAnswer, UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Statuses that pass: too many requests, a proxy's or a server's trouble.
_AGAIN = {408, 409, 425, 429, *range(500, 600)}
#: Seconds before a request is sent again: the first time, at most, and at most when the server names a time.
_FIRST, _MOST, _MOST_ASKED = 0.5, 60.0, 300.0
_CONNECT_TIMEOUT = 10.0
#: Fields of a request that are the backend's.
_OWN = ("model", "messages", "prompt", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "logprobs", "stream")
#: vLLM's, OpenAI's and others' words for a prompt that exceeds the context.
_TOO_LONG = re.compile(
    r"context.length|context_length|maximum (context|model|input) length|max_model_len|too many tokens", re.I
)


class Refused(UserError):
    """The server understood and will not do it; ``too_long``: because the prompt exceeds its context."""

    code = "server-refused"

    def __init__(self, message: str, too_long: bool) -> None:
        super().__init__(message)
        self.too_long = too_long


class Endpoint:
    """The server at ``config.endpoint``. Its key, where it wants one, is in the environment and nowhere else.

    Raises :class:`UserError` for an address that is none, and for fields of requests that are not the user's to set. Usable
    from many threads.
    """

    def __init__(self, config: GenerateConfig) -> None:
        if taken := sorted(set(config.request_fields) & set(_OWN)):
            raise UserError(
                f"generation.request_fields: {', '.join(taken)} cannot be set there, as the backend sets it (generation."
                "checkpoint, prompt, max_new_tokens, temperature, top_p, queries_per_document, seed; answers do not stream)",
                code="setting-conflict",
            )
        self.url = _address(config.endpoint)
        self.config = config
        self._pool = urllib3.PoolManager(
            maxsize=config.concurrency,
            block=True,
            retries=False,
            timeout=urllib3.Timeout(connect=min(_CONNECT_TIMEOUT, config.request_timeout), read=config.request_timeout),
        )
        self._headers = {"Content-Type": "application/json"}
        if key := variables.endpoint_key():
            self._headers["Authorization"] = f"Bearer {key}"
        self._stopped = threading.Event()
        self.repeated = 0

    def describe(self) -> dict[str, str]:
        """Return the server's description of the model: its root, context and version, as far as it tells.

        Raises :class:`UserError` naming the models that are served where `config.checkpoint` is none of them.
        """
        served = {each["id"]: each for each in self._send_until_answered("GET", "models", None, _models)}
        name = self.config.checkpoint
        if name not in served:
            raise UserError(
                f"{self.url}: serves {', '.join(sorted(served)) or 'no model'} and not {name}; set generation.checkpoint to the "
                "name of a served model, or generation.endpoint to the server that has it",
                code="model-not-served",
            )
        found = {f"server_{key}": str(served[name][key]) for key in ("root", "max_model_len") if served[name].get(key)}
        try:
            answer = self._pool.request("GET", f"{self.url.removesuffix('/v1')}/version", headers=self._headers)
            return {**found, "server": str(json.loads(answer.data)["version"])} if answer.status == 200 else found
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError):
            return found  # vLLM's alone

    def post(self, route: str, data: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        """Return the result of ``read`` for the answer; it raises ValueError for an answer that should be asked for again.

        Raises :class:`Refused`, or :class:`NoAnswer` when the request failed `config.retries` times more.
        """
        return self._send_until_answered("POST", route, json.dumps(data).encode(), read)

    def stop(self) -> None:
        """Nothing is sent again from now on: one request has failed for good."""
        self._stopped.set()

    def _send_until_answered(self, method: str, route: str, body: bytes | None, read: Callable[[Any], T]) -> T:
        for attempt in range(self.config.retries + 1):
            pause = 0.0
            try:
                answer = self._pool.request(
                    method, f"{self.url}/{route}", body=body, headers=self._headers, redirect=False
                )
                if answer.status in _AGAIN:
                    pause = _asked_pause(answer.headers.get("Retry-After", ""))
                    reason = f"HTTP {answer.status} {_said(answer.data)}".strip()
                elif answer.status != 200:
                    raise self._refusal(answer.status, answer.data)
                else:
                    return read(json.loads(answer.data))
            except ValueError as error:  # JSON that ends early too
                reason = f"an answer that cannot be read: {error}"
            except urllib3.exceptions.HTTPError as error:
                reason = _network(error)
            if attempt < self.config.retries:
                self._wait(max(pause, min(_FIRST * 2**attempt, _MOST) * random.uniform(0.5, 1)), reason)
        raise NoAnswer(
            f"{self.url}: {reason}, and so {self.config.retries + 1} times; look at that server's log, then run again: what "
            "is finished is kept",
            code="server-no-answer",
        )

    def _wait(self, seconds: float, reason: str) -> None:
        self.repeated += 1
        # One line for the first, and then for ever fewer.
        if self.repeated & (self.repeated - 1) == 0:
            log.warning("%s: %s; asking again (%d times so far)", self.url, reason, self.repeated)
        if self._stopped.wait(seconds):
            raise NoAnswer(f"{self.url}: {reason}", code="server-no-answer")

    def _refusal(self, status: int, data: bytes) -> Refused:
        said = _said(data)
        if status in (401, 403):
            remedy = f"set {variables.ENDPOINT_KEY} to a key that it takes (on a cluster: Secret inranker-endpoint)"
        elif status in (301, 302, 307, 308):
            remedy = "set generation.endpoint to the address that it redirects to"
        elif status == 404:
            remedy = "generation.endpoint must be the address before /completions, such as http://HOST:PORT/v1"
        else:
            remedy = "change the setting that it names, or use another generation.backend"
        text = f"{self.url}: HTTP {status} {said}".strip()
        return Refused(f"{text}; {remedy}", too_long=status in (400, 413, 422) and bool(_TOO_LONG.search(said)))


def _address(endpoint: str) -> str:
    """Return the address without a slash at its end; one without a path gets OpenAI's."""
    try:
        parsed = urllib3.util.parse_url(endpoint)
    except urllib3.exceptions.LocationParseError:
        parsed = urllib3.util.Url()
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.auth:
        shown = "an address with a password in it" if parsed.auth else repr(endpoint)
        raise UserError(
            f"generation.endpoint: {shown} is not of the form http://HOST:PORT/v1; a key belongs into {variables.ENDPOINT_KEY}",
            code="address-form",
        )
    url = endpoint.rstrip("/")
    return url if (parsed.path or "/").strip("/") else f"{url}/v1"


def _models(answer: Any) -> list[dict[str, Any]]:
    try:
        return [each for each in answer["data"] if isinstance(each["id"], str)]
    except (KeyError, TypeError) as error:
        raise ValueError("not a list of models") from error


def _asked_pause(value: str) -> float:
    """Return seconds that a Retry-After asks for, given as such or as a date."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            seconds = 0.0
    return min(max(seconds, 0.0), _MOST_ASKED)


def _said(data: bytes) -> str:
    """Return the server's own message, shortened."""
    try:
        said: Any = json.loads(data)
        for key in ("error", "message"):
            said = said[key] if isinstance(said, dict) and key in said else said
        if isinstance(said, dict) and "detail" in said:
            said = said["detail"]
    except ValueError:
        said = data.decode(errors="replace")
    text = said if isinstance(said, str) else json.dumps(said)
    return " ".join(text.split())[:300]


def _network(error: urllib3.exceptions.HTTPError) -> str:
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # of the next one's kind, too
        return "nobody answers there"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, urllib3.exceptions.SSLError):
        return f"its certificate is not trusted ({' '.join(str(error).split())[:200]})"
    return "the connection broke"
