"""The S3 client, and how long a server is waited for.

Endpoint and credentials come from the standard AWS environment through boto3 (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ...).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from inranker_flow.environment import mounted, variables
from inranker_flow.errors import UserError
from inranker_flow.redaction import credentials_in, line, redact

T = TypeVar("T")


#: Attempts of :func:`patiently`, each of up to three of the client's own, over about half a minute.
ATTEMPTS = 7

#: Seconds before the second attempt; it doubles.
PAUSE = 0.4

#: What S3 servers call a trouble that passes, whatever the status.
PASSING = {
    *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeTooSkewed", "Throttling"),
    *("ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "IncompleteBody", "BadDigest"),
    *("ConditionalRequestConflict", "OperationAborted", "XAmzContentChecksumMismatch"),
}

#: Credentials that were good and may have been renewed where they come from (a file, a role).
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}

_NEVER = (501, 507)

#: What servers say of a bucket or a disk that is full.
FULL_CODES = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}

#: Attempts at a server that has not answered in this process: an address where nobody is is not waited for.
FIRST_ATTEMPTS = 3

#: Seconds in which such a server must answer, and those of one that has.
FIRST_TIMEOUT, TIMEOUT = 6, 60

#: Servers that have answered in this process, and not with a trouble.
_answered: set[str] = set()


def patiently(action: Callable[[], T]) -> T:
    """Return ``action`` on S3, again after a while where it failed for a reason that passes.

    Such are a busy server, a connection or an answer that was cut, and credentials that have been renewed. The client
    itself tries three times within a second; this is for work that must not be lost for a bad minute. An error that stays
    gets a note that says for how long it was tried.
    """
    began = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            result = action()
        except Exception as error:
            if not _passes(error):
                raise
            if attempt >= (ATTEMPTS if endpoint() in _answered else FIRST_ATTEMPTS):
                error.add_note(f"tried again for {time.monotonic() - began:.0f} s")
                raise
            time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        else:
            return result
    raise AssertionError("the last attempt returns or raises")


def _passes(error: Exception) -> bool:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    error = inside(error)
    if isinstance(error, exceptions.ClientError):
        code = error.response["Error"].get("Code", "")
        if code in EXPIRED:
            _clients.cache_clear()  # a new session asks for its credentials anew
            return True
        status = int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))
        return code in PASSING or (status >= 500 and status not in _NEVER and code not in FULL_CODES)
    nobody = (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)
    if isinstance(error, nobody):
        return endpoint() in _answered
    if isinstance(error, exceptions.SSLError | exceptions.ProxyConnectionError):
        return endpoint() in _answered
    cut = (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError)
    return isinstance(error, (*cut, exceptions.FlexibleChecksumError, ResponseParserError))


def inside(error: Any) -> Any:
    """Return the cause of boto3's error about a transfer in parts; any other error is returned as it is."""
    from boto3.exceptions import Boto3Error

    inner = (getattr(error, "last_exception", None) or error.__context__) if isinstance(error, Boto3Error) else None
    return inner or error


def client() -> Any:
    """Return the S3 client. It gives up in seconds where nobody answers, and waits for a server that has answered before.

    Raises :class:`UserError` where the environment or AWS' files do not make one.
    """
    first, later = _clients()
    return later if first.meta.endpoint_url in _answered else first


def endpoint() -> str:
    """Return the address of the server."""
    return str(_clients()[0].meta.endpoint_url)


@cache
def _clients() -> tuple[Any, Any]:
    """Return the client for a server's first answer, and that for all others."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    mounted.forget_blanks()
    for name in ("botocore.credentials", "botocore.tokens"):  # they log tracebacks of what they raise as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    made = []
    try:
        session = boto3.session.Session(
            region_name=variables.aws_region()
        )  # the default session would keep old credentials
        for attempts, timeout in ((2, FIRST_TIMEOUT), (3, TIMEOUT)):
            config = Config(
                connect_timeout=3, read_timeout=timeout, retries={"mode": "standard", "total_max_attempts": attempts}
            )
            made.append(session.client("s3", config=config))
        _check_endpoint(made[0].meta.endpoint_url)
    except BotoCoreError as error:
        raise UserError(f"{' '.join(str(error).split())}; {_setting(error)}", code="s3-settings") from error
    except OSError as error:  # a profile's program that hands out credentials
        raise UserError(
            f"{line(error)}; correct the credential_process of the profile in ~/.aws/config", code="s3-settings"
        ) from error
    except ValueError as error:
        raise UserError(
            f"AWS_ENDPOINT_URL: {redact(str(error))}; give an address such as http://HOST:PORT", code="address-form"
        ) from error
    for client in made:
        client.meta.events.register("after-call.s3", _has_answered(client.meta.endpoint_url))
    return made[0], made[1]


#: Make the next call read the environment anew.
client.cache_clear = _clients.cache_clear  # type: ignore[attr-defined]


def _has_answered(endpoint: str) -> Callable[..., None]:
    def note(http_response: Any, **_: Any) -> None:
        if http_response.status_code < 400 or http_response.status_code in (404, 412):
            _answered.add(endpoint)

    return note


def _check_endpoint(address: str) -> None:
    if credentials_in(address):
        raise UserError(
            "AWS_ENDPOINT_URL holds a user or a password, which S3 does not know; give http://HOST:PORT, and the keys in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            code="secret-shown",
        )
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.port == 0:
        raise ValueError(f"{address} is no address of a server")


def _setting(error: Exception) -> str:
    """Return the remedy if no client can be made."""
    from botocore import exceptions

    if isinstance(error, exceptions.ProfileNotFound):
        return "correct AWS_PROFILE (or unset it), or add that profile to ~/.aws/config"
    if isinstance(error, exceptions.ConfigParseError | exceptions.ConfigNotFound):
        return "correct that file, or name another in AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"
    if isinstance(error, exceptions.PartialCredentialsError | exceptions.NoCredentialsError):
        return "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither where there is a role"
    if isinstance(error, exceptions.InvalidRegionError):
        return "correct AWS_REGION"
    return "correct the AWS_* variables, or the profile in ~/.aws"
