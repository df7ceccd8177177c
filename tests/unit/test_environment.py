"""What is mounted into a pod becomes its environment, every key of it."""

from __future__ import annotations

import os

import pytest

from inranker_flow import redaction
from inranker_flow.environment import mounted
from inranker_flow.errors import UserError
from tests.inputs.table import stage


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    """An empty place of mounts; what becomes a variable is gone after the test."""
    monkeypatch.setattr(mounted, "MOUNTS", tmp_path / "etc")
    before = dict(os.environ)
    yield tmp_path / "etc"
    for name in set(os.environ) - set(before):
        del os.environ[name]


def mount(folder, **keys):
    """As Kubernetes does: files in a dated folder, ``..data`` leads to it, and each key is a link through that."""
    dated = folder / "..2026_01_01"
    dated.mkdir(parents=True)
    (folder / "..data").symlink_to(dated.name)
    for name, value in keys.items():
        (dated / name).write_bytes(value if isinstance(value, bytes) else value.encode())
        (folder / name).symlink_to(f"..data/{name}")


def test_every_key_is_a_variable_and_files_of_other_names_stay_files(mounts, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "of-the-pod")
    mount(
        mounts / "settings",
        **{
            "AWS_REGION": "of-the-map",
            "HF_ENDPOINT": "https://hub.example",
            "HTTPS_PROXY": "http://proxy:3128\n",
            "REQUESTS_CA_BUNDLE": "/etc/inranker/settings/ca.crt",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required\r\n",
            "MY_OWN_SETTING": "\ufeffa = b c",
            "EMPTY_SETTING": "",
            "ca.crt": b"\xff\x00",
        },
    )
    mount(mounts / "inranker-s3", AWS_ACCESS_KEY_ID="id", AWS_SESSION_TOKEN="token-of-the-session")
    mount(mounts / "inranker-mlflow", MLFLOW_TRACKING_USERNAME="anna", ODD="hidden as well")
    mounted.settle()
    assert os.environ["AWS_REGION"] == "of-the-pod", "what is set already stays"
    assert os.environ["HF_ENDPOINT"] == "https://hub.example"
    assert os.environ["HTTPS_PROXY"] == "http://proxy:3128"
    assert os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"
    assert os.environ["MY_OWN_SETTING"] == "a = b c"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "id" and os.environ["MLFLOW_TRACKING_USERNAME"] == "anna"
    assert "EMPTY_SETTING" not in os.environ and "ca.crt" not in os.environ and "..data" not in os.environ
    text = "anna: token-of-the-session, hidden as well"
    assert redaction.redact(text) == f"anna: {redaction.HIDDEN}, {redaction.HIDDEN}"


def test_a_secret_decides_before_the_settings(mounts):
    mount(mounts / "settings", MLFLOW_TRACKING_TOKEN="of-the-map")
    mount(mounts / "inranker-mlflow", MLFLOW_TRACKING_TOKEN="of-the-secret")
    mounted.settle()
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "of-the-secret"


def test_what_is_too_long_for_a_variable_stays_a_file(mounts):
    mount(mounts / "settings", CA_BUNDLE="c" * 200_000)
    mounted.settle()
    assert "CA_BUNDLE" not in os.environ


def test_without_mounts_nothing_changes(mounts):
    before = dict(os.environ)
    mounted.settle()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("content", "says"), [(b"a\0b", "holds a zero byte"), (b"\xff\xfe\xfa", "is no UTF-8 text")], ids=["zero", "binary"]
)
def test_what_can_be_no_variable_is_said_in_one_line(mounts, content, says):
    mount(mounts / "inranker-hub", HF_KEYSTORE=content)
    with pytest.raises(UserError, match=f"HF_KEYSTORE: {says}"):
        mounted.settle()


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("value", ["", "  ", "\t"])
def test_an_empty_variable_is_as_if_unset(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTHER", value)
    mounted.forget_blanks()
    assert name not in os.environ and os.environ["OTHER"] == value


def test_a_stage_reads_the_mounts_before_anything_else(mounts, capfd):
    mount(mounts / "settings", INRANKER_SETTING_OF_A_TEST="seen")
    seen = []

    def look() -> None:
        seen.append(os.environ.get("INRANKER_SETTING_OF_A_TEST"))

    stage(look, configs={})
    assert seen == ["seen"]


def test_no_stage_imports_what_reads_the_environment_before_the_mounts_are_read():
    import subprocess
    import sys

    reading = ("boto3", "botocore", "mlflow", "huggingface_hub", "requests", "transformers", "torch")
    script = f"""
import importlib, pathlib, re, sys
for path in sorted(pathlib.Path("components").glob("*/component.py")):
    for module in re.findall(r"from (inranker_flow[.\\w]*) import", path.read_text()):
        importlib.import_module(module)
print([name for name in {reading!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
