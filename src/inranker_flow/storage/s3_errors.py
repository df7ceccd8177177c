"""What an error of S3 means to a person: one line with the endpoint, how long it was tried, and a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.redaction import line
from inranker_flow.storage import s3_client


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn boto3's errors into one line with endpoint, how long it was tried, and remedy."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        EndpointConnectionError,
        NoCredentialsError,
        PartialCredentialsError,
        ReadTimeoutError,
    )
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError) as error:
        raise UserError(
            f"{uri}: no S3 server answers at {s3_client.endpoint()}; check AWS_ENDPOINT_URL and the network{_tried(error)}",
            code="server-no-answer",
        ) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise UserError(
            f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role",
            code="s3-credentials",
        ) from error
    except RecursionError as error:  # botocore follows every redirection to another region
        raise UserError(
            f"{uri}: S3 at {s3_client.endpoint()} redirects for ever; set AWS_REGION to the bucket's region, or correct "
            "AWS_ENDPOINT_URL",
            code="s3-settings",
        ) from error
    except (ClientError, BotoCoreError, Boto3Error, ResponseParserError, ValueError) as error:
        answer = s3_client.inside(error)
        said = f"{uri}: S3 at {s3_client.endpoint()}"
        if isinstance(answer, ClientError):
            about = answer.response["Error"]
            status = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "?")
            message = f"{about.get('Code') or status}: {about.get('Message', '')}".strip(" :")
            said = f"{said} answered {line(message)}{_tried(error) or f' ({answer.operation_name})'}"
        elif isinstance(answer, ReadTimeoutError | EndpointConnectionError | ConnectTimeoutError):
            said = f"{said}: no answer{_tried(error)}"
        else:
            said = f"{said}: {line(answer)}{_tried(error)}"
        raise UserError(f"{said}{_remedy(answer)}", code="s3-refused") from error


def _tried(error: BaseException) -> str:
    """Return the note of `patiently`."""
    return "".join(f" ({note})" for note in getattr(error, "__notes__", []))


#: S3's error code -> what to do.
_REMEDIES = {
    "NoSuchBucket": "create the bucket or correct the address",
    "RequestTimeTooSkewed": "the clocks differ: set this machine's (or that server's) by NTP",
    "NotImplemented": (
        "this server lacks what was asked of it: update it, use another S3 server, or set INRANKER_STORE=off where it is the "
        "store's"
    ),
    **dict.fromkeys(s3_client.EXPIRED, "what is stored stays, so renew the credentials and run again"),
    **dict.fromkeys(s3_client.FULL_CODES, "what is stored stays, so make room there and run again"),
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure", "InvalidSecurity"),
        "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (on a cluster: Secret inranker-s3)",
    ),
    # All that SeaweedFS says where its disk is full, its volumes are used up or the bucket is over its quota.
    "InternalError": (
        "what is stored stays. Servers that are full say this, too: look at the server's log, its free space and the bucket's "
        "quota, then run again"
    ),
}

_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "307"}


def _remedy(error: Any) -> str:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, exceptions.SSLError):
        return "; name the file of your CA in AWS_CA_BUNDLE, or give http://... where the server speaks that"
    if isinstance(error, exceptions.ProxyConnectionError):
        return "; correct HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY"
    if isinstance(error, ResponseParserError):
        return "; what answers there is no S3 server: correct AWS_ENDPOINT_URL"
    if isinstance(error, exceptions.SSOError | exceptions.TokenRetrievalError | exceptions.CredentialRetrievalError):
        return "; log in anew (aws sso login), or correct the profile in ~/.aws/config"
    if isinstance(error, exceptions.ParamValidationError | UnicodeError) or "Invalid header value" in str(error):
        return "; correct the address and the AWS_* variables"
    response = getattr(error, "response", None) or {}
    code = response.get("Error", {}).get("Code", "")
    about = response.get("ResponseMetadata", {})
    status = about.get("HTTPStatusCode", 0)
    if code in _REMEDIES:
        return f"; {_REMEDIES[code]}"
    if code in _ELSEWHERE:
        named = response["Error"].get("Region") or about.get("HTTPHeaders", {}).get("x-amz-bucket-region")
        return f"; set AWS_REGION to the bucket's region{f', {named}' if named else ''}, or correct AWS_ENDPOINT_URL"
    if status == 507:
        return f"; {_REMEDIES['QuotaExceeded']}"
    if status == 501:
        return f"; {_REMEDIES['NotImplemented']}"
    if status >= 500 and code not in s3_client.PASSING:
        return "; see that server's log, or correct AWS_ENDPOINT_URL where it is no S3 server"
    if status in (401, 403):
        right = error.operation_name.replace("ListObjectsV2", "ListBucket").replace("HeadObject", "GetObject")
        return f"; grant s3:{right} on it to the access key or role of the runs"
    if code in s3_client.PASSING or status == 429:
        return "; what is stored stays. That server is busy or cut the exchange: wait, and run again"
    return "; correct that address, or AWS_ENDPOINT_URL where it is no S3 server"
