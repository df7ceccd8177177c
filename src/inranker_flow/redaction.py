"""What is secret in a text, replaced: passwords in addresses, tokens in queries and headers, what the environment hides.

Everything that is printed, logged, sent or recorded passes through :func:`redact`. It depends on the text and on the
environment alone, so that child processes hide the same.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any, TextIO, cast
from urllib.parse import quote, quote_plus, unquote

from inranker_flow.environment import variables
from inranker_flow.errors import UserError

#: Stands for what was secret.
HIDDEN = "***"
#: Environment variable: names, separated by commas, of the variables that came out of mounted Secrets.

#: A shorter value of the environment is a switch or a word of every text.
_LEAST = 4
#: A value shorter than this is replaced only where it stands alone.
_LONG = 8

_SECRET_PARTS = frozenset(
    {"PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "APIKEY", "COOKIE", "COOKIES", "CREDENTIALS", "WEBHOOK"}
)
_SECRET_NAME = re.compile(r"(?:^|_)(?:API|ACCESS|PRIVATE|SECRET|ENCRYPTION|SIGNING|ACCOUNT|AUTH)_KEY(?:$|_)")
#: Names that say where a secret lies or whose it is, and not the secret itself.
_PUBLIC_NAME = re.compile(r"_(?:ID|FILE|PATH|DIR|NAME|USERNAME|USER|REGION|HOST|PORT)$|^(?:PATH|PWD|HOME|USER)$")
_SWITCHES = frozenset({"true", "false", "none", "null", "auto", "unset", "default", "enabled", "disabled"})

#: Looked for from the beginning of a run of its characters alone: from each of them it would take long over a long word.
_SCHEME = r"(?<![A-Za-z0-9+.-])[0-9+.-]*+[A-Za-z][A-Za-z0-9+.-]*://"
_NAMED = (
    r"(?:(?<![\w.-])[\w.-]*(?:password|passwd|passphrase|secret|signature|credential|api[_-]?key|apikey|access[_-]?key)[\w.-]*+"
    r"|(?<![\w.-])[\w.-]*(?:access|auth|session|security|refresh|bearer|hf|hub|tracking|api|id|x)[_-]token"
    r"|\b(?:token|pwd|sig|jwt))"
)
_TOKEN = r"(?=[^\s\"',;]*(?:[0-9=+/_]|[a-z][A-Z]))[A-Za-z0-9._~+/=-]{8,}"

#: What follows the colon of an address is its port.
_PORT = r"\d{1,5}(?:[/?#\s\"'<>,;)]|$)"
#: User and password of an address, or of a value that is one without its scheme.
_USERINFO = re.compile(rf"(?:{_SCHEME}|^)([^\s/?#\"'<>@:\[\]]*):(?!{_PORT})([^<>\n]+)@")

#: Every form holds one of these.
_HINT = re.compile(
    r"(?i)[@=]|authorization|cookie|bearer|basic|x-api-key|x-auth-token|x-amz-security-token|password|passwd|passphrase|secret"
    r"|signature|credential|api[_-]?key|access[_-]?key|token|pwd|sig|jwt|akia|asia|hf_|sk-|gh[pousr]_|xox|github_pat_|glpat-"
    r"|dapi|eyJ|-----BEGIN|hooks\.slack|discord|webhook|chat\.googleapis"
)

#: (form, what takes its place). Their order matters: whole addresses before their parts.
_FORMS: tuple[tuple[re.Pattern[str], str], ...] = (
    # https://hooks.slack.com/services/T0/B0/x: all of the path is the secret.
    (
        re.compile(
            r"(https?://[\w.-]*(?:hooks\.slack\.com|discord(?:app)?\.com/api/webhooks|webhook\.office\.com"
            r"|chat\.googleapis\.com/v1/spaces)/)[^\s\"'<>]+"
        ),
        rf"\1{HIDDEN}",
    ),
    # scheme://user:password@host; the password may hold / ? # @ or a quote, unless it looks like a port.
    (re.compile(rf"({_SCHEME})[^\s/?#\"'<>@:\[\]]*:(?!{_PORT})[^\s<>]*@"), rf"\1{HIDDEN}@"),
    # The same with blanks in the password.
    (re.compile(rf"({_SCHEME})[^\s/?#\"'<>@:\[\]]+:(?!{_PORT})[^/?#<>\"'@\n]*@"), rf"\1{HIDDEN}@"),
    # scheme://token@host
    (re.compile(rf"({_SCHEME})[^\s/?#\"'<>]*@"), rf"\1{HIDDEN}@"),
    # user:password@host without a scheme
    (re.compile(r"(?<![\w/@.:%+*-])[\w.%+-]+:[^\s/@:\"'<>]+@(?=[A-Za-z][\w.-]*)"), f"{HIDDEN}@"),
    # ?token=..., &X-Amz-Signature=..., #access_token=...
    (
        re.compile(rf"([?&;#](?:{_NAMED}|[\w.-]*token|key|auth|pass|code)=)[^&#\s\"'<>;]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    # Authorization: Bearer ..., also in the dictionaries that libraries print
    (
        re.compile(
            r"(\b(?:proxy-)?authorization[\"']?\s*[:=]\s*(?:b?[\"'])?(?:(?:bearer|basic|token|negotiate|digest)\s+)?+)"
            r"(?!AWS4)[^\s\"',;}]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(r"(\b(?:set-)?cookie[\"']?\s*[:=]\s*(?:b?[\"'])?)(?=\S*=)[^\"'\n}]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(r"(\bx-(?:api-key|auth-token|amz-security-token)[\"']?\s*[:=]\s*(?:b?[\"'])?)[^\s\"',;}]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (re.compile(rf"(\b(?:[Bb]earer|[Bb]asic)\s+){_TOKEN}"), rf"\1{HIDDEN}"),
    # NAME=value, "name": "value", 'name': 'value'
    (re.compile(rf"({_NAMED}\s?=\s?[\"']?)[^\s\"',;&)}}]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"([\"']{_NAMED}[\"']\s*:\s*([\"']))(?:(?!\2).)+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # What is a secret by its form alone
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[a-z]-[\w-]{10,}"), HIDDEN),
    (re.compile(r"\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|\bdapi[0-9a-f]{32}\b"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), HIDDEN),
    (re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|\Z)", re.DOTALL), rf"\1 {HIDDEN} \2"),
)  # fmt: skip


def redact(text: str) -> str:
    """Return ``text`` with everything that is secret in it replaced: by its form, and as a value of this environment."""
    for value in _values(variables.everything()):
        if value in text:
            text = text.replace(value, HIDDEN) if len(value) >= _LONG else _alone(value).sub(HIDDEN, text)
    return _by_form(text)


def credentials_in(address: str) -> bool:
    """Return whether an address holds a password, a token or a signature, which must not be recorded."""
    return _by_form(address) != address


def refuse_credentials(data: object, where: str) -> None:
    """Refuse a setting whose value is an address with a password, a token or a signature, before it is recorded anywhere.

    ``data``: a value, or sections of them, called ``where``. Raises :class:`UserError` that names the setting, not the value.
    """
    if isinstance(data, Mapping):
        for key, value in data.items():
            refuse_credentials(value, f"{where}.{key}" if where else str(key))
    elif isinstance(data, list | tuple):
        for number, value in enumerate(data):
            refuse_credentials(value, f"{where}[{number}]")
    elif isinstance(data, str) and "://" in data and not re.search(r"\s", data) and credentials_in(data):
        raise UserError(
            f"{where}: the address {redact(data)} holds a password or a token, and a run's settings are recorded where many can "
            "read them; give it without, and the secret in the variable that its client reads",
            code="secret-shown",
        )


def line(text: object, length: int = 300) -> str:
    """Return a server's words as part of one line: redacted, then without line breaks, then cut."""
    return " ".join(redact(str(text)).split())[:length]


class _Output:
    """A stream that is written to as before, without what is secret. Everything else of it is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for each in lines:
            self.write(each)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def hidden_in_output() -> Iterator[None]:
    """Within the block nothing that this process prints shows a secret: libraries print addresses, too (MLflow each run's)."""
    before = sys.stdout, sys.stderr
    # A process without a terminal may have none of them.
    sys.stdout, sys.stderr = (each and cast(TextIO, _Output(each)) for each in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class Formatter(logging.Formatter):
    """Formats as :class:`logging.Formatter` does, tracebacks too, and hides what is secret."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _by_form(text: str) -> str:
    if not _HINT.search(text):  # most texts, and the forms take long over long words
        return text
    for form, instead in _FORMS:
        text = form.sub(instead, text)
    return text


def _alone(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(value)}(?!\w)")


def _values(environment: Mapping[str, str]) -> list[str]:
    """Return the secret values of an environment in all spellings, longest first."""
    found = set(_spellings(_secrets(environment)))
    return sorted((value for value in found if len(value) >= _LEAST and HIDDEN not in value), key=len, reverse=True)


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    mounted = set(environment.get(variables.SECRET_NAMES, "").split(","))
    for name, content in environment.items():
        value = content.strip()
        if name == variables.SECRET_NAMES or len(value) < _LEAST or (value.isdigit() and len(value) < _LONG):
            continue
        if value.lower() not in _SWITCHES and _is_secret(name, name in mounted and len(value) >= _LONG):
            yield value
            if "WEBHOOK" in name.upper():
                yield re.sub(rf"^{_SCHEME}[^/]*", "", value)  # libraries print an address without its host
        if "@" in value:
            yield from _in_address(value)
    user = environment.get("MLFLOW_TRACKING_USERNAME", "")
    if user and (password := environment.get("MLFLOW_TRACKING_PASSWORD")):
        yield b64encode(f"{user}:{password}".encode()).decode()


def _is_secret(name: str, mounted: bool) -> bool:
    upper = name.upper()
    if _PUBLIC_NAME.search(upper):
        return False
    if mounted and not upper.endswith(("_URL", "_URI", "ENDPOINT")):
        return True
    return bool(_SECRET_PARTS.intersection(upper.split("_")) or _SECRET_NAME.search(upper))


def _in_address(value: str) -> Iterator[str]:
    """Yield the password, and user with password as a header holds them, of every address in ``value``."""
    for user, password in _USERINFO.findall(value):
        yield password
        yield b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


def _spellings(values: Iterable[str]) -> Iterator[str]:
    """Yield each value as it may stand in a message: plain, in an address, in JSON, in HTML, as Python shows it."""
    for value in values:
        yield from (value, unquote(value), quote(value, safe=""), quote(value), quote_plus(value))
        yield from (
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            escape(value),
            repr(value)[1:-1],
        )
        yield from (part for part in value.splitlines() if len(part) >= _LONG and len(part) < len(value))
