"""The compiled YAML, tested as what it is: the product that a cluster gets."""

from __future__ import annotations

import pytest
import yaml

from pipelines.compile import compile_pipeline
from pipelines.placement import PLACEMENT, image


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    path = compile_pipeline("inranker", tmp_path_factory.mktemp("compiled") / "inranker.yaml")
    return list(yaml.safe_load_all(path.read_text()))


def executors(documents):
    return {
        key.removeprefix("exec-"): value["container"]
        for key, value in documents[0]["deploymentSpec"]["executors"].items()
    }


def _stage(executor: str) -> str:
    name = executor.replace("-", "_")
    return next(stage for stage in sorted(PLACEMENT, key=len, reverse=True) if name.startswith(stage))


def test_nothing_is_installed_at_run_time(documents):
    for name, container in executors(documents).items():
        assert "pip" not in " ".join(container["command"]), name


def test_every_stage_is_there_in_its_own_image(documents):
    found = {_stage(name): container["image"] for name, container in executors(documents).items()}
    assert found == {stage: image(stage) for stage in PLACEMENT}


def test_image_tags_are_content_digests(documents):
    for container in executors(documents).values():
        tag = container["image"].rsplit(":", 1)[1]
        assert len(tag) == 16 and int(tag, 16)


def test_targets_are_one_flat_loop(documents):
    loops = [
        name
        for name, component in documents[0]["components"].items()
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "parameterIterator" in task or "artifactIterator" in task
    ]
    root = [name for name, task in documents[0]["root"]["dag"]["tasks"].items() if "parameterIterator" in task]
    assert not loops and len(root) == 1


def test_no_parameter_has_a_secret_name(documents):
    for name in documents[0]["root"]["inputDefinitions"]["parameters"]:
        assert not any(word in name for word in ("secret", "password", "token", "key_id"))


def test_compiling_twice_gives_the_same_pipeline(documents, tmp_path):
    again = list(yaml.safe_load_all(compile_pipeline("inranker", tmp_path / "again.yaml").read_text()))
    assert again == documents
