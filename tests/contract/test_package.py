"""The wheel: what a person installs and calls, in an environment that knows nothing of the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the checkout, built from a copy: setuptools leaves files where it builds."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "components"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        out,
        copy,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run a command of an environment with the wheel and, for time's sake, the packages of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    ours = ("PYTHON", "INRANKER_", "MLFLOW_", "HF_HUB_OFFLINE")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}

    def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        name, *rest = arguments
        return subprocess.run(
            [folder / "bin" / name, *rest], cwd=elsewhere, env=environment, input=text, capture_output=True, text=True
        )

    run.folder, run.elsewhere = folder, elsewhere  # type: ignore[attr-defined]
    return run


def test_the_wheel_holds_the_library_its_data_and_its_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for each in ("py.typed", "profiles/demo.yaml", "demo/models/student/config.json", "report/page.html.jinja"):
        assert f"inranker_flow/{each}" in names
    assert not [name for name in names if name.startswith(("tests/", "pipelines/", "benchmarks/"))]


def test_the_command_and_the_import_are_of_the_wheel(installed):
    found = installed("python", "-c", "import inranker_flow; print(inranker_flow.__file__)")
    assert found.stdout.startswith(str(installed.folder)), found.stderr
    assert installed("inranker", "--version").stdout.startswith("inranker-flow 0.")
    said = installed("inranker").stdout
    assert "run a whole pipeline" in said and "submit" not in said, "a command that cannot work is not offered"
    refused = installed("inranker", "submit")
    assert refused.returncode == 2 and "needs a checkout" in refused.stderr
    assert "phase1.batching  (iid or grouped" in installed("inranker", "settings", "phase1.batching").stdout


def test_every_command_tells_its_options(installed):
    for name in (
        "run",
        "plan",
        "rank",
        "settings",
        "history",
        "promote",
        "rollback",
        "report",
        "mlflow",
        "why",
        "clean",
    ):
        done = installed("inranker", name, "--help")
        assert done.returncode == 0 and f"usage: inranker {name}" in done.stdout, (name, done.stderr)


def test_a_ranking_on_the_command_line_is_that_of_the_library(installed):
    passages = 'the cat sleeps\n{"title": "Dogs", "text": "they bark"}\n\nan inn with rooms\n'
    arguments = ("--model", "demo:student", "--query", "cat", "-")
    ranked = installed("inranker", "rank", *arguments, text=passages)
    assert ranked.returncode == 0, ranked.stderr
    script = """
from inranker_flow import Reranker
passages = ["the cat sleeps", {"title": "Dogs", "text": "they bark"}, "an inn with rooms"]
for each in Reranker("demo:student").rank("cat", passages):
    print(f"{each.score:8.3f}  {each.position:4d}")
"""
    called = installed("python", "-c", script)
    assert called.returncode == 0, called.stderr
    assert [line[:14] for line in ranked.stdout.splitlines()] == called.stdout.splitlines()
    assert len(called.stdout.splitlines()) == 3


def artifacts(folder: Path) -> set[tuple[str, ...]]:
    """Stage, data set and content digest of every artifact whose content the run's seed decides; of a student the digests of
    all its files but the record, which names the folder that it started from."""
    manifests = [json.loads(path.read_text()) for path in (folder / "artifacts").rglob("manifest.json")]
    timed = ("evaluate", "export", "promote")  # seconds, and the time of day, are in these
    return {
        (
            each["stage"],
            each["dataset"],
            *sorted(f"{name} {digest}" for name, digest in each["files"].items() if name != "training.json"),
        )
        if each["stage"] == "distill"
        else (each["stage"], each["dataset"], each["content"])
        for each in manifests
        if each["stage"] not in timed
    }


def measured(folder: Path) -> set[str]:
    """Digests of the tables of measures."""
    return {sha256(path.read_bytes()).hexdigest() for path in (folder / "artifacts").rglob("measures.parquet")}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_ten_lines_of_the_readme_give_what_the_compiled_pipeline_gives(installed, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(from inranker_flow import Reranker, distil\n.*?)```", readme, re.S)
    # With an encoder as the student: the demo's own runs train T5s.
    changes = 'profile="smoke", student="init:encoder-tiny", phase1={"max_steps": 5}'
    small = lines.replace('profile="demo"', changes)
    assert small != lines and len(lines.splitlines()) <= 10
    called = installed("python", "-c", small)
    assert called.returncode == 0, called.stdout[-3000:] + called.stderr[-3000:]
    assert "[distill_phase2] " in called.stdout and "nDCG@10" in called.stdout
    assert "a student of the kind encoder" in called.stdout
    plain = installed.elsewhere / "run"

    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "INRANKER_"))}
    command = [
        "run",
        "--runner=process",
        "--profile=smoke",
        "--student=init:encoder-tiny",
        "--set=phase1.max_steps=5",
        f"--run-dir={tmp_path / 'kfp'}",
    ]
    compiled = subprocess.run(
        [sys.executable, "-m", "inranker_flow", *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stdout[-3000:] + compiled.stderr[-3000:]
    found = artifacts(plain)
    assert {stage for stage, *_ in found} == {
        "prepare_corpus",
        "retrieve",
        "teacher_label",
        "generate_queries",
        "distill",
    }
    assert found == artifacts(tmp_path / "kfp")
    assert measured(plain) == measured(tmp_path / "kfp") and len(measured(plain)) == 1

    again = installed("python", "-c", small)
    assert again.returncode == 0 and again.stdout.count("taken from the store") == 9
    refused = installed("python", "-c", small.replace('"max_steps"', '"max_step"'))
    assert "UserError: smoke.yaml: phase1.max_step: unknown key; did you mean 'max_steps'?" in refused.stderr
