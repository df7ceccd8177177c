"""Requests to a server that computes for a stage: sent again when that helps, and refused in one line when it does not."""

from __future__ import annotations

import email.utils
import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import urllib3

from inranker_flow.errors import NoAnswer, UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Statuses that pass: too many requests, a proxy's or a server's trouble.
_AGAIN = {408, 409, 425, 429, *range(500, 600)}
#: Seconds before a request is sent again: the first time, at most, and at most when the server names a time.
_FIRST, _MOST, _MOST_ASKED = 0.5, 60.0, 300.0
_CONNECT_TIMEOUT = 10.0
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


@dataclass(frozen=True)
class Address:
    """A server as a section of the profile names it: ``setting`` is the key with its address, ``variable`` that with its key."""

    url: str
    setting: str
    variable: str
    #: The form of the address, and the route behind it.
    form: str
    route: str
    concurrency: int
    timeout: float
    retries: int
    key: str = field(default="", repr=False)
    #: The key of the Secret that holds ``variable`` on a cluster.
    secret: str = "inranker-endpoint"
    #: The setting of its section that says what does the work instead.
    instead: str = "backend"
    content_type: str = "application/json"


class Endpoint:
    """The server at an address. Its key, where it wants one, is in the environment and nowhere else.

    Raises :class:`UserError` for an address that is none. Usable from many threads.
    """

    def __init__(self, address: Address) -> None:
        self.address, self.url = address, _checked(address)
        self._pool = urllib3.PoolManager(
            maxsize=address.concurrency,
            block=True,
            retries=False,
            timeout=urllib3.Timeout(connect=min(_CONNECT_TIMEOUT, address.timeout), read=address.timeout),
        )
        self._headers = {"Content-Type": address.content_type}
        if address.key:
            _check_key(address)
            # A key may be a whole header: `ApiKey ...`, `Basic ...`.
            self._headers["Authorization"] = address.key if " " in address.key else f"Bearer {address.key}"
        self._stopped = threading.Event()
        self.repeated = 0

    def get(self, route: str, read: Callable[[Any], T]) -> T:
        """As :meth:`post`, without a body."""
        return self.exchange("GET", route, None, lambda answer: read(json.loads(answer.data)))

    def look(self, url: str) -> Any:
        """Return the JSON at an address that not every such server has; None where it has not. Asked once."""
        try:
            answer = self._pool.request("GET", url, headers=self._headers)
            return json.loads(answer.data) if answer.status == 200 else None
        except (urllib3.exceptions.HTTPError, ValueError, RecursionError):
            return None

    def post(self, route: str, data: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        """Return the result of ``read`` for the answer; it raises ValueError for an answer that should be asked for again.

        Raises :class:`Refused`, or :class:`NoAnswer` when the request failed ``retries`` times more.
        """
        return self.exchange("POST", route, json.dumps(data).encode(), lambda answer: read(json.loads(answer.data)))

    def stop(self) -> None:
        """Nothing is sent again from now on: one request has failed for good."""
        self._stopped.set()

    def exchange(self, method: str, route: str, body: bytes | None, read: Callable[[urllib3.BaseHTTPResponse], T]) -> T:
        """As :meth:`post`; ``read`` is given the whole answer, its headers too."""
        retries = self.address.retries
        for attempt in range(retries + 1):
            pause = 0.0
            try:
                answer = self._request(method, route, body)
                if answer.status in _AGAIN:
                    pause = _asked_pause(answer.headers.get("Retry-After", ""))
                    reason = f"HTTP {answer.status} {_said(answer.data)}".strip()
                elif answer.status != 200:
                    raise self._refusal(answer.status, answer.data)
                else:
                    return read(answer)
            except (ValueError, OverflowError, RecursionError) as error:  # JSON that ends early, or nests without end
                reason = f"an answer that cannot be read: {error}"
            except urllib3.exceptions.HTTPError as error:
                reason = _network(error)
            if attempt < retries:
                self._wait(max(pause, min(_FIRST * 2**attempt, _MOST) * random.uniform(0.5, 1)), reason)
        raise NoAnswer(
            f"{self.url}: {reason}, and so {retries + 1} times; look at that server's log, then run again: what "
            "is finished is kept",
            code="server-no-answer",
        )

    def _request(self, method: str, route: str, body: bytes | None) -> urllib3.BaseHTTPResponse:
        """Return the whole answer to one request.

        The pool's limit is that between two pieces of an answer: a server that drips them would hold the request for ever.
        """
        until = time.monotonic() + self.address.timeout
        asked = f"{self.url}/{route}"
        answer = self._pool.request(
            method, asked, body=body, headers=self._headers, redirect=False, preload_content=False
        )
        data = bytearray()
        try:
            while piece := answer.read1():
                data += piece
                if time.monotonic() > until:
                    raise urllib3.exceptions.TimeoutError(f"{len(data)} bytes in {self.address.timeout:g} s")
        except BaseException:
            answer.close()  # the rest must not be read as the next answer
            raise
        finally:
            answer.release_conn()  # the pool waits for it
        return urllib3.HTTPResponse(bytes(data), headers=answer.headers, status=answer.status)

    def _wait(self, seconds: float, reason: str) -> None:
        self.repeated += 1
        # One line for the first, and then for ever fewer.
        if self.repeated & (self.repeated - 1) == 0:
            log.warning("%s: %s; asking again (%d times so far)", self.url, reason, self.repeated)
        if self._stopped.wait(seconds):
            raise NoAnswer(f"{self.url}: {reason}", code="server-no-answer")

    def _refusal(self, status: int, data: bytes) -> Refused:
        said = _said(data)
        setting, section = self.address.setting, self.address.setting.partition(".")[0]
        if status in (401, 403):
            variable = self.address.variable
            remedy = f"set {variable} to a key that it takes (on a cluster: Secret {self.address.secret})"
        elif status in (301, 302, 307, 308):
            remedy = f"set {setting} to the address that it redirects to"
        elif status == 404:
            remedy = f"{setting} must be the address before /{self.address.route}, such as {self.address.form}"
        else:
            remedy = f"change the setting that it names, or use another {section}.{self.address.instead}"
        text = f"{self.url}: HTTP {status} {said}".strip()
        return Refused(f"{text}; {remedy}", too_long=status in (400, 413, 422) and bool(_TOO_LONG.search(said)))


def _check_key(address: Address) -> None:
    """Raise :class:`UserError` for a key that no header can hold: HTTP's libraries would show it in what they say."""
    if not address.key.isascii() or not address.key.isprintable():
        raise UserError(
            f"{address.variable}: holds a line break or another character that no key has; set it to the key alone",
            code="setting-value",
        )


def _checked(address: Address) -> str:
    """Return the address without a slash at its end."""
    try:
        parsed = urllib3.util.parse_url(address.url)
    except urllib3.exceptions.LocationParseError:
        parsed = urllib3.util.Url()
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.auth:
        shown = "an address with a password in it" if parsed.auth else repr(address.url)
        raise UserError(
            f"{address.setting}: {shown} is not of the form {address.form}; a key belongs into {address.variable}",
            code="address-form",
        )
    return address.url.rstrip("/")


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
    except (ValueError, RecursionError):
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
