"""Whether images are pushed, asked of a registry over HTTP."""

from __future__ import annotations

import json

import pytest

from inranker_flow.errors import UserError
from pipelines.registry_check import Reference, check_pushed
from tests.refusals import refuses
from tests.registry import LOGIN, Registry

DIGEST = "sha256:" + "a" * 64


@pytest.fixture(autouse=True)
def no_stored_login(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def log_in(folder, name: str) -> None:
    (folder / "config.json").write_text(json.dumps({"auths": {name: {"auth": LOGIN}}}))


@pytest.mark.parametrize("asks", ["", "bearer"])
def test_tags_and_digests_that_are_there_pass(asks):
    with Registry(asks=asks) as registry:
        registry.images |= {"team/base:1", f"team/train@{DIGEST}"}
        assert check_pushed([f"{registry.name}/team/base:1", f"{registry.name}/team/train@{DIGEST}"]) == []
        assert ("HEAD", f"/v2/team/train/manifests/{DIGEST}") in registry.requests


@pytest.mark.parametrize("asks", ["", "bearer"])
def test_one_that_is_not_there_is_named_with_the_command(asks):
    with Registry(asks=asks) as registry:
        registry.images.add("team/inranker-flow-base:1")
        images = [f"{registry.name}/team/inranker-flow-{name}:1" for name in ("base", "train")]
        with pytest.raises(
            UserError, match=f"inranker-flow-train:1 is not pushed: make push REGISTRY={registry.name}/team$"
        ):
            check_pushed(images)


@pytest.mark.parametrize("asks", ["login", "basic"])
def test_what_docker_login_stored_is_used(asks, no_stored_login):
    with Registry(everything=True, asks=asks) as registry:
        (warning,) = check_pushed([f"{registry.name}/x:1"])
        assert "does not tell us (HTTP 401)" in warning
        log_in(no_stored_login, registry.name)
        assert check_pushed([f"{registry.name}/x:1"]) == []
        registry.everything = False
        with refuses("image-not-pushed"):
            check_pushed([f"{registry.name}/x:1"])


def test_a_registry_that_refuses_us_is_a_warning_once(no_stored_login):
    with Registry(everything=True, asks="refuse") as registry:
        log_in(no_stored_login, registry.name)
        warnings = check_pushed([f"{registry.name}/x:1", f"{registry.name}/y:1"])
        assert len(warnings) == 1
        assert LOGIN not in warnings[0]


def test_a_registry_that_nobody_serves_is_a_warning():
    (warning,) = check_pushed(["127.0.0.1:9/x:1"])
    assert "127.0.0.1:9 cannot be asked (Connection refused)" in warning


def test_something_that_is_no_registry_is_a_warning(server):
    (warning,) = check_pushed([f"{server.url.removeprefix('http://')}/x:1"]) or [""]
    assert "does not tell us" in warning or "cannot be asked" in warning


def test_no_registry_at_all_is_refused():
    with refuses("image-not-pushed", "REGISTRY"):
        check_pushed(["localhost/inranker-flow-base:1"])


@pytest.mark.parametrize(
    ("image", "address"),
    [
        ("team/x", "https://registry-1.docker.io/v2/team/x/manifests/latest"),
        ("docker.io/team/x:1", "https://registry-1.docker.io/v2/team/x/manifests/1"),
        ("ghcr.io/a/b/c:1", "https://ghcr.io/v2/a/b/c/manifests/1"),
        ("localhost:5001/x:1", "http://localhost:5001/v2/x/manifests/1"),
        ("registry:5000/x:1", "https://registry:5000/v2/x/manifests/1"),
        (f"r.example/x:1@{DIGEST}", f"https://r.example/v2/x/manifests/{DIGEST}"),
    ],
)
def test_references_are_taken_apart_by_dockers_rules(image, address):
    assert Reference.parse(image).address == address
