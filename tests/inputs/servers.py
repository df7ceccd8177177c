"""MLflow, S3, KFP's and Kubernetes' APIs, the webhook, and what is mounted into a pod."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.http_server import Answer, HttpServer
from tests.inputs.table import PASSWORD, Input, stage


@dataclass(frozen=True)
class Done:
    """What a stage of these rows did."""

    checks: int


@contextmanager
def told(**environment: str) -> Iterator[None]:
    """The environment with these variables; what this process remembers of servers is forgotten before and after."""
    from inranker_flow.storage import s3_client
    from inranker_flow.tracking import connection

    def forget() -> None:
        import mlflow

        mlflow.set_tracking_uri(None)
        connection._answered.clear()
        s3_client._answered.clear()
        s3_client.client.cache_clear()  # type: ignore[attr-defined]

    before = dict(os.environ)
    forget()  # first: MLflow unsets its variable where another test has set an address
    os.environ.update(environment)
    try:
        yield
    finally:
        forget()
        os.environ.clear()
        os.environ.update(before)


# MLflow


def mlflow_stage() -> Done:
    """What `preflight` asks first."""
    from inranker_flow.tracking import connection

    mlflow_client = connection.client()
    mlflow_client.search_experiments()
    return Done(1)


def mlflow_at(uri: str) -> Callable[[Path], int]:
    def act(here: Path) -> int:
        with told(MLFLOW_TRACKING_URI=uri.replace("HERE", str(here))):
            return stage(mlflow_stage, configs={})

    return act


def mlflow_answers(answer: Answer, login: str = "") -> Callable[[Path], int]:
    def act(here: Path) -> int:
        with HttpServer() as server:
            server.answer = lambda request: answer  # type: ignore[method-assign]
            with told(MLFLOW_TRACKING_URI=server.url.replace("://", f"://{login}@") if login else server.url):
                return stage(mlflow_stage, configs={})

    return act


def mlflow_file(content: bytes | None) -> Callable[[Path], int]:
    def act(here: Path) -> int:
        path = here / "mlflow.db"
        path.mkdir() if content is None else path.write_bytes(content)
        return mlflow_at(f"sqlite:///{path}")(here)

    return act


def experiment(number: str) -> Callable[[Path], int]:
    """Ask for an experiment by its number, of a server that has none."""

    def act(here: Path) -> int:
        from inranker_flow.tracking import connection

        def ask() -> Done:
            connection.experiment_id(connection.client())
            return Done(1)

        with HttpServer() as server:
            server.answer = lambda request: (  # type: ignore[method-assign]
                Answer(
                    404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"No Experiment with id={number} exists"}
                )
                if "experiments/get" in request.path
                else Answer(200, {"experiments": []})
            )
            with told(MLFLOW_TRACKING_URI=server.url, MLFLOW_EXPERIMENT_ID=number):
                return stage(ask, configs={})

    return act


MLFLOW = [
    Input(
        "MLflow: no user", mlflow_answers(Answer(401, b"who?")), ("error code 401", "correct MLFLOW_TRACKING_USERNAME")
    ),
    Input(
        "MLflow: a wrong password in the address, which the server repeats",
        mlflow_answers(Answer(401, f"anna:{PASSWORD} is wrong".encode()), f"anna:{PASSWORD}"),
        ("http://***@127.0.0.1", "error code 401"),
    ),
    Input(
        "MLflow: the right password in the address",
        mlflow_answers(Answer(200, {"experiments": []}), f"anna:{PASSWORD}"),
        ("done in",),
        status=0,
    ),
    Input(
        "MLflow: no right",
        mlflow_answers(Answer(403, {"error_code": "PERMISSION_DENIED"})),
        ("grant it to the account",),
    ),
    Input("MLflow: a login page", mlflow_answers(Answer(200, b"<html>log in</html>")), ("is no MLflow: a login page",)),
    Input(
        "MLflow: a redirect to a login page",
        mlflow_answers(Answer(302, b"", {"Location": "/login"})),
        ("it redirects", "give the address that it leads to"),
    ),
    Input("MLflow: another program", mlflow_answers(Answer(404, b"?")), ("no MLflow or an older one",)),
    Input("MLflow: in trouble", mlflow_answers(Answer(500, b"boom")), ("too many 500", "see its log")),
    Input("MLflow: bad gateway", mlflow_answers(Answer(502, b"<html>")), ("too many 502", "a proxy in front of it")),
    Input("MLflow: garbage", mlflow_answers(Answer(200, b"\xff\x00")), ("is no MLflow",)),
    Input("MLflow: nobody there", mlflow_at("http://127.0.0.1:9"), ("no MLflow server answers at http://127.0.0.1:9",)),
    Input(
        "MLflow: nobody there, with a password",
        mlflow_at(f"http://anna:{PASSWORD}@127.0.0.1:9"),
        ("no MLflow server answers at http://***@127.0.0.1:9", "connection refused"),
    ),
    Input("MLflow: no scheme", mlflow_at("127.0.0.1:5000"), ("give http://HOST:PORT",)),
    Input("MLflow: a password without scheme", mlflow_at(f"anna:{PASSWORD}@mlflow:5000"), ("give http://HOST:PORT",)),
    Input(
        "MLflow: a folder", mlflow_at("file://HERE/mlruns"), ("give http://HOST:PORT", "sqlite:////FOLDER/mlflow.db")
    ),
    Input("MLflow: a scheme that nobody knows", mlflow_at("foo://bar"), ("give http://HOST:PORT",)),
    Input("MLflow: a port that is none", mlflow_at("http://127.0.0.1:port"), ("give http://HOST:PORT",)),
    Input("MLflow: a database in memory", mlflow_at("sqlite://"), ("names no file",)),
    Input(
        "MLflow: a database where no file can be made",
        mlflow_at("sqlite:////proc/mlflow.db"),
        ("cannot be made in /proc",),
    ),
    Input("MLflow: a device as database", mlflow_at("sqlite:////dev/null"), ("/dev/null is no file",)),
    Input(
        "MLflow: an experiment that is not there",
        lambda here: experiment("99")(here),
        ("No Experiment with id=99 exists", "correct MLFLOW_EXPERIMENT_ID, or unset it"),
    ),
    Input(
        "MLflow: an experiment that is no number",
        lambda here: experiment("inns")(here),
        ("correct MLFLOW_EXPERIMENT_ID",),
    ),
    Input("MLflow: a text file", mlflow_file(b"this is no database\n" * 99), ("damaged or no database", "mlflow.db")),
    Input("MLflow: a folder as database", mlflow_file(None), ("is a folder; give the database's file",)),
    Input(
        "MLflow: a file on the way to the database",
        lambda here: (here / "a").write_text("a") and mlflow_at(f"sqlite:///{here}/a/mlflow.db")(here),
        ("is a file; give another path",),
    ),
]

# S3

KEYS = {"AWS_ACCESS_KEY_ID": "id-of-a-row", "AWS_SECRET_ACCESS_KEY": PASSWORD, "AWS_DEFAULT_REGION": "us-east-1"}


def refusal(status: int, code: str, message: str = "no") -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())


def copy() -> Done:
    from inranker_flow.storage import uris

    uris.local_copy("s3://corpora/inns")
    return Done(1)


def s3_with(**environment: str) -> Callable[[Path], int]:
    def act(here: Path) -> int:
        files = {"AWS_CONFIG_FILE": f"{here}/config", "AWS_SHARED_CREDENTIALS_FILE": f"{here}/credentials"}
        with told(
            **{
                **KEYS,
                **files,
                "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
                "INRANKER_CACHE": f"{here}/cache",
                **environment,
            }
        ):
            return stage(copy, configs={})

    return act


def s3_answers(answer: Answer) -> Callable[[Path], int]:
    def act(here: Path) -> int:
        with HttpServer() as server:
            server.answer = lambda request: answer  # type: ignore[method-assign]
            return s3_with(AWS_ENDPOINT_URL=server.url)(here)

    return act


def s3_key(*names: str) -> Callable[[Path], int]:
    """A bucket with these keys below the prefix: none of them is asked for."""
    found = "".join(f"<Contents><Key>inns{name}</Key><Size>1</Size><ETag>e</ETag></Contents>" for name in names)
    return s3_answers(
        Answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode())
    )


def s3_cached(folder: str) -> Callable[[Path], int]:
    def act(here: Path) -> int:
        found = (
            b"<ListBucketResult><Contents><Key>inns/a</Key><Size>1</Size><ETag>e</ETag></Contents></ListBucketResult>"
        )
        with HttpServer() as server:
            server.answer = lambda request: Answer(200, found)  # type: ignore[method-assign]
            return s3_with(AWS_ENDPOINT_URL=server.url, INRANKER_CACHE=folder)(here)

    return act


def s3_profile(lines: str) -> Callable[[Path], int]:
    """A profile with these lines, and no keys in the environment."""

    def act(here: Path) -> int:
        (here / "config").write_text(f"[profile p]\n{lines}")
        return s3_with(AWS_PROFILE="p", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")(here)

    return act


S3 = [
    Input("S3: a key with ..", s3_key("/corpus.jsonl", "/../../out"), ("'../../out'", "nothing was copied")),
    Input("S3: an absolute key", s3_key("/corpus.jsonl", "//etc/out"), ("'/etc/out'", "nothing was copied")),
    Input("S3: a key with an empty part", s3_key("/a//b"), ("'a//b'", "has an empty part")),
    Input("S3: a key with a backslash", s3_key("/..\\out"), ("holds a backslash", "nothing was copied")),
    Input("S3: a key that is file and folder", s3_key("/a", "/a/b"), ("'a/b' lies below 'a', which is a file",)),
    Input("S3: a key equal to the prefix", s3_key("", "/corpus.jsonl"), ("nothing was copied",)),
    Input("S3: a key too long for a disk", s3_key("/" + "x" * 300), ("is too long for a file's name",)),
    Input(
        "S3: a list without sizes",
        s3_answers(Answer(200, b"<ListBucketResult><Contents><Key>inns/a</Key></Contents></ListBucketResult>")),
        ("its list says nothing of the size or the etag of 'inns/a'", "correct that address"),
    ),
    Input("S3: another method", s3_answers(refusal(405, "MethodNotAllowed")), ("where it is no S3 server",)),
    Input("S3: a status alone", s3_answers(Answer(418, b"")), ("answered 418", "where it is no S3 server")),
    Input("S3: busy", s3_answers(refusal(429, "SlowDown")), ("wait, and run again",)),
    Input(
        "S3: a cache where none can be",
        lambda here: (here / "file").touch() or s3_cached(f"{here}/file/cache")(here),  # type: ignore[func-returns-value]
        ("FAILED: INRANKER_CACHE: ", "file/cache: Not a directory"),
    ),
    Input(
        "S3: a program for credentials that is not there",
        s3_profile("credential_process = /nowhere/program\n"),
        ("/nowhere/program", "correct the credential_process"),
    ),
    Input(
        "S3: a login that is over",
        s3_profile(
            "sso_session=x\nsso_account_id=1\nsso_role_name=r\n[sso-session x]\nsso_region=us-east-1\n"
            "sso_start_url=http://127.0.0.1:9\n"
        ),
        ("Token for x does not exist", "log in anew (aws sso login)"),
    ),
    Input(
        "S3: a token with a line break",
        s3_with(AWS_SESSION_TOKEN="a\nb"),
        ("correct the address and the AWS_* variables",),
    ),
    Input("S3: nothing there", s3_key(), ("s3://corpora/inns: nothing is stored there",)),
    Input("S3: no bucket", s3_answers(refusal(404, "NoSuchBucket")), ("create the bucket or correct the address",)),
    Input("S3: wrong keys", s3_answers(refusal(403, "InvalidAccessKeyId")), ("correct AWS_ACCESS_KEY_ID",)),
    Input("S3: no right to list", s3_answers(refusal(403, "AccessDenied")), ("grant s3:ListBucket on it",)),
    Input("S3: an expired token", s3_answers(refusal(400, "ExpiredToken")), ("renew the credentials",)),
    Input("S3: another clock", s3_answers(refusal(403, "RequestTimeTooSkewed")), ("by NTP",)),
    Input(
        "S3: another region", s3_answers(refusal(301, "PermanentRedirect")), ("set AWS_REGION to the bucket's region",)
    ),
    Input("S3: a login page", s3_answers(Answer(200, b"<html><body>log in</html>")), ("where it is no S3 server",)),
    Input(
        "S3: a server that repeats the secret",
        s3_answers(refusal(400, "InvalidRequest", f"the secret {PASSWORD} is wrong")),
        ("answered InvalidRequest: the secret *** is wrong",),
    ),
    Input("S3: nobody there", s3_with(), ("no S3 server answers at http://127.0.0.1:9",)),
    Input("S3: a profile that is not there", s3_with(AWS_PROFILE="nowhere"), ("nowhere", "correct AWS_PROFILE")),
    Input("S3: half of the keys", s3_with(AWS_SECRET_ACCESS_KEY=" "), ("AWS_SECRET_ACCESS_KEY", "set both")),
    Input(
        "S3: an address without scheme",
        s3_with(AWS_ENDPOINT_URL="minio:9000"),
        ("AWS_ENDPOINT_URL", "http://HOST:PORT"),
    ),
    Input(
        "S3: an address with a password",
        s3_with(AWS_ENDPOINT_URL=f"http://anna:{PASSWORD}@127.0.0.1:9"),
        ("AWS_ENDPOINT_URL holds a user or a password",),
    ),
    Input(
        "S3: a config file that is none",
        lambda here: (here / "config").write_text("[default\n") and s3_with()(here),
        ("correct that file", "AWS_CONFIG_FILE"),
    ),
]


# The pod


def mounted(**keys: bytes) -> Callable[[Path], int]:
    def act(here: Path) -> int:
        from inranker_flow.environment import mounted

        folder = here / "etc" / "inranker-mlflow"
        folder.mkdir(parents=True)
        for name, content in keys.items():
            (folder / name).write_bytes(content)
        before, mounted.MOUNTS = mounted.MOUNTS, here / "etc"
        try:
            with told():
                return stage(leak, configs={})
        finally:
            mounted.MOUNTS = before

    return act


def leak() -> Done:
    """Say what must not be said, as a library would."""
    import logging

    said = os.environ.get("MLFLOW_TRACKING_PASSWORD", "nothing")
    logging.getLogger("inranker_flow").warning("sent %s", said)
    print(f"View run at http://anna:{said}@mlflow:5000")
    sys.stderr.write(f"and {said}\n")
    return Done(1)


POD = [
    Input(
        "a Secret whose key is a variable",
        mounted(MLFLOW_TRACKING_PASSWORD=PASSWORD.encode() + b"\n"),
        ("sent ***",),
        0,
    ),
    Input("a Secret with another file", mounted(**{"ca.crt": b"\xff\x00"}), ("sent nothing",), 0),
    Input(
        "a Secret with a zero byte",
        mounted(MLFLOW_TRACKING_PASSWORD=b"a\0b"),
        ("MLFLOW_TRACKING_PASSWORD: holds a zero byte",),
    ),
    Input(
        "a Secret that is no text",
        mounted(MLFLOW_TRACKING_PASSWORD=b"\xff\xfe"),
        ("MLFLOW_TRACKING_PASSWORD: is no UTF-8",),
    ),
]

INPUTS = [*MLFLOW, *S3, *POD]
