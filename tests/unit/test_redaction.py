"""No secret survives `redact`, and nothing else is changed."""

from __future__ import annotations

import io
import logging
import sys
from base64 import b64encode
from urllib.parse import quote

import pytest

from inranker_flow import redaction
from inranker_flow.commands import console
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.redaction import HIDDEN, credentials_in, redact

SECRET = "s3cret-of-anna"


@pytest.mark.parametrize(
    "text",
    [
        f"http://anna:{SECRET}@mlflow:5000: no answer",
        f"('http://anna:{SECRET}@mlflow:5000',)",
        f"https://{SECRET}@github.com/x.git",
        f"https://:{SECRET}@github.com/x.git",
        f"https://anna:{SECRET}/with?odd#signs@host/path",
        f"https://anna:{SECRET}@twice@host/path",
        f"https://anna:my {SECRET}@host/path",
        f"https://anna:{SECRET}'s@host/path",
        f"postgresql+psycopg2://anna:{SECRET}@db:5432/mlflow",
        f"HTTPS://Anna:{SECRET}@HOST",
        f"s3://anna:{SECRET}@bucket/prefix",
        f"anna:{SECRET}@mlflow:5000 has no scheme",
        f"http://[::1]:80/x and http://anna:{SECRET}@[::1]:80/x",
        f"http://host/v1?api_key={SECRET}&n=3",
        f"http://host/v1?n=3&token={SECRET}#x",
        f"http://host/v1?sig={SECRET}",
        f"http://host/v1?key={SECRET}",
        f"http://host/v1?Signature={SECRET}&Expires=3",
        f"https://b.s3.amazonaws.com/k?X-Amz-Credential={SECRET}%2F2026&X-Amz-Signature={SECRET}",
        f"https://host/#access_token={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}', 'Accept': '*/*'}}",
        f"{{'authorization': b'Basic {SECRET}'}}",
        f"Authorization: {SECRET}",
        f"Proxy-Authorization: Basic {SECRET}",
        f"Cookie: session={SECRET}; other=2",
        f"X-Api-Key: {SECRET}",
        f"AWS4-HMAC-SHA256 Credential=x/2026/us, SignedHeaders=host, Signature={SECRET}",
        f"refused: Bearer {SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET} make run",
        f"OPENAI_API_KEY='{SECRET}'",
        f'{{"password": "{SECRET}", "user": "anna"}}',
        f"{{'aws_secret_access_key': '{SECRET}'}}",
        f"https://hooks.slack.com/services/T0/B0/{SECRET}",
        f"https://discord.com/api/webhooks/1/{SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_by_form(text):
    assert SECRET not in redact(text) and HIDDEN in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "token",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "sk-proj-abcdefghijklmnop1234",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "xoxb-123456789012-abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ],
)
def test_tokens_of_known_form(token):
    assert token not in redact(f"refused {token}: 401")


@pytest.mark.parametrize(
    "text",
    [
        "http://mlflow:5000/#/experiments/1: no answer",
        "http://127.0.0.1:8080/a@b and http://[::1]:8080/a@b",
        "s3://bucket/prefix/corpus.jsonl",
        "sqlite:////tmp/a b/mlflow%20.db",
        "sqlite:////tmp/anna@home/mlflow.db",
        "models:/inranker@champion",
        "models:/inranker/12",
        "localhost:5000/inranker-flow-base@sha256:0123456789abcdef",
        "oci://registry:5000/inranker@sha256:0123456789abcdef",
        "git+https://github.com/owner/x@v1.2",
        "nDCG@10 .4321, RR(rel=2)@10, evaluation.measures: nDCG@10",
        "eos_token='</s>', max_tokens=32, label_tokens=['▁true', '▁false'], tokenizer=t5",
        "OPENAI_API_KEY: not set; HF_TOKEN: the hub refuses it",
        "MLFLOW_TRACKING_PASSWORD and AWS_SECRET_ACCESS_KEY are in the Secret inranker-s3",
        "Basic authentication is needed, Bearer tokens too",
        "http://host/search?query=copper&page=2",
        "hf://owner/dataset/file.jsonl",
        "12:30:01 [retrieve] done in 3.2 s: queries 4",
        "contact anna@example.org",
        "",
    ],
)
def test_nothing_else(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "correct horse battery"),
        ("MLFLOW_TRACKING_TOKEN", "tracking+token/with=signs"),
        ("AWS_SECRET_ACCESS_KEY", "wJalr/XUtnFEMI+K7MDENG"),
        ("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEJr"),
        ("OPENAI_API_KEY", "local-key-17"),
        ("HF_TOKEN", "not-of-the-usual-form"),
        ("KF_PIPELINES_COOKIES", "authservice_session=abcdef"),
        ("INRANKER_WEBHOOK_URL", "https://chat.example.org/hooks/abcdefgh"),
        ("MY_DB_PASSWORD", 'with "quotes" & <marks>'),
        ("MLFLOW_TRACKING_PASSWORD", "päßwörter"),
    ],
)
def test_values_of_the_environment_in_all_spellings(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    for text in (value, repr({"x": value}), quote(value, safe=""), f"HTTPConnectionPool(...): {value}: refused"):
        assert value not in redact(text) and HIDDEN in redact(text), text


@pytest.mark.parametrize("uri", ["http://anna:{}@mlflow:5000", "anna:{}@mlflow:5000", "https://anna:{}@h/x?y=1"])
def test_the_password_of_an_address_in_the_environment_also_by_itself(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(SECRET))
    basic = b64encode(f"anna:{SECRET}".encode()).decode()
    for text in (f"host='{SECRET}'", f"sent {basic}", f"bad port {SECRET!r}"):
        assert redact(text) != text and SECRET not in redact(text) and basic not in redact(text)


def test_a_short_password_only_where_it_stands_alone(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "base")
    assert redact("the database refused 'base'") == f"the database refused '{HIDDEN}'"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token"),
        ("KF_PIPELINES_SA_TOKEN_PATH", "/var/run/secrets/token"),
        ("AWS_ACCESS_KEY_ID", "inranker-test"),
        ("MLFLOW_TRACKING_USERNAME", "inranker"),
        ("HF_TOKEN", "true"),
        ("AWS_REGION", "us-east-1"),
        ("MLFLOW_TRACKING_URI", "http://mlflow:5000"),
    ],
)
def test_what_is_public_in_the_environment_stays(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert redact(f"inranker-test/inranker: false, true: {value}") == f"inranker-test/inranker: false, true: {value}"


def test_everything_out_of_mounted_secrets(monkeypatch):
    monkeypatch.setenv("ODD", "certificate-body")
    assert redact("certificate-body") == "certificate-body"
    monkeypatch.setenv(variables.SECRET_NAMES, "OTHER,ODD")
    assert redact("certificate-body") == HIDDEN


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (f"http://anna:{SECRET}@host/v1", True),
        (f"http://{SECRET}@host/v1", True),
        (f"http://host/v1?api_key={SECRET}", True),
        (f"anna:{SECRET}@host", True),
        ("http://host:8000/v1", False),
        ("http://host/v1?model=x", False),
        ("s3://bucket/prefix", False),
        ("/data/anna@home", False),
        ("", False),
    ],
)
def test_credentials_in(address, expected):
    assert credentials_in(address) is expected


def test_a_cut_comes_after_hiding():
    text = f"{'x' * 280} http://anna:{SECRET}@host"
    assert "s3" not in redaction.line(text)


def test_the_formatter_hides_in_tracebacks_too():
    try:
        raise ValueError(f"http://anna:{SECRET}@host")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "x", 1, "at %s", (f"http://a:{SECRET}@h",), (ValueError, error, None)
        )
    said = redaction.Formatter("%(message)s").format(record)
    assert SECRET not in said and "ValueError" in said


@pytest.mark.parametrize("address", [f"http://anna:{SECRET}@host/v1", f"https://host/v1?api_key={SECRET}"])
def test_a_setting_with_a_password_is_refused_by_its_name(address):
    sections = {
        "source": {"uri": "s3://bucket/a"},
        "targets": [{"uri": "/data"}, {"uri": address}],
        "n": 3,
        "none": None,
    }
    with pytest.raises(UserError, match=r"^targets\[1\]\.uri: the address .* holds a password") as caught:
        redaction.refuse_credentials(sections, "")
    assert SECRET not in str(caught.value)
    redaction.refuse_credentials({"a": ["http://host:8000/v1", "password=x y", "models:/m@champion"]}, "")


def test_what_a_library_prints_is_hidden_and_the_streams_are_themselves_again(capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), redaction.hidden_in_output():
        print(f"View run at: http://anna:{SECRET}@mlflow:5000/#/runs/1")
        sys.stderr.writelines([f"{SECRET}\n", "plain\n"])
        assert sys.stdout.encoding == before[0].encoding and not sys.stdout.isatty()
        raise KeyError
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == (f"View run at: http://{HIDDEN}@mlflow:5000/#/runs/1\n", f"{HIDDEN}\nplain\n")


def test_a_process_without_streams_needs_none(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with redaction.hidden_in_output():
        assert sys.stdout is None


def test_neither_the_log_of_a_run_nor_the_terminal_gets_what_a_task_prints(tmp_path):
    line = f"12:00:00 [retrieve inns] View run at: http://anna:{SECRET}@mlflow:5000/#/runs/1\n"
    terminal = io.StringIO()
    with (tmp_path / "run.log").open("w", encoding="utf-8") as log:
        console.Tee(terminal, log, everything=False).write(line)
    for told in (terminal.getvalue(), (tmp_path / "run.log").read_text()):
        assert told == line.replace(f"anna:{SECRET}", HIDDEN)


@pytest.mark.parametrize("word", ["x" * 200_000, "a.b" * 60_000, "a-b_" * 40_000, "token." * 20_000])
def test_a_long_word_does_not_end_in_a_hang(word):
    """Forms that begin anew at each of its characters would need hours for it."""
    assert redaction.redact(f"{word} token=abc12345 http://u:p@h/") == f"{word} token=*** http://***@h/"
