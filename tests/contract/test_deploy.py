"""`make deploy` and `make diff`: what is wrong is one line before anything is touched; credentials are made once.

There is no cluster here: kubectl is real where it needs none, and a recorder stands in for it where one would answer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
import yaml

from tests.contract.manifests import K8S, ROOT, kubectl

NOBODY = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "lab",
    "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
    "clusters": [{"name": "lab", "cluster": {"server": "http://127.0.0.1:9"}}],
    "users": [{"name": "me", "user": {}}],
}
#: Answers as a cluster would whose secrets are files in $STATE; writes down what it is asked.
RECORDER = """#!/usr/bin/env bash
echo "$*" >> "$STATE/calls"
case "$*" in
  kustomize*) exec "$KUBECTL" "$@" ;;
  "config current-context") echo lab ;;
  "get --raw"*) echo ok ;;
  "get secret"*) [ ! -f "$STATE/secret-$3" ] || echo "secret/$3" ;;
  "create secret generic"*) cat > "$STATE/secret-$4" ;;
  diff*) exit "${DIFF:-0}" ;;
  "apply -k"*) exit "${APPLY:-0}" ;;
  apply*) ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def state(tmp_path):
    kubectl()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").write_text(RECORDER)
    (tmp_path / "bin" / "kubectl").chmod(0o755)
    return tmp_path


def _deploy(state, action, overlay, **environment):
    path = f"{state / 'bin'}{os.pathsep}{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, "STATE": str(state), "KUBECTL": kubectl(), **environment}
    return subprocess.run([K8S / "deploy", action, overlay], env=given, capture_output=True, text=True, check=False)


def _calls(state):
    return (state / "calls").read_text().splitlines()


def test_deploy_makes_missing_credentials_once_and_applies_server_side(state):
    first = _deploy(state, "apply", "dev")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("Context: lab, namespace: inranker, overlay: dev\n")
    made = {path.name: path.read_text() for path in state.glob("secret-*")}
    assert set(made) == {"secret-inranker-s3", "secret-inranker-postgres"}
    rows = "".join(made.values()).splitlines()
    values = [row.partition("=")[2] for row in rows]
    assert all(re.fullmatch(r"[0-9a-f]{40}", value) for value in values) and len(set(values)) == 3
    assert not [value for value in values if value in first.stdout + first.stderr + "\n".join(_calls(state))]
    assert _calls(state)[-1] == "apply -k overlays/dev --server-side --field-manager=inranker-flow"
    assert _deploy(state, "apply", "dev").returncode == 0
    assert {path.name: path.read_text() for path in state.glob("secret-*")} == made


def test_what_another_tool_has_set_is_taken_over_only_when_asked(state):
    refused = _deploy(state, "apply", "dev", APPLY="1")
    assert refused.returncode == 2 and "FORCE=1 takes over" in refused.stderr
    assert _deploy(state, "apply", "dev", FORCE="1").returncode == 0
    assert [" --force-conflicts" in call for call in _calls(state) if call.startswith("apply -k")] == [False, True]


def test_kind_uses_the_same_credentials(state):
    assert _deploy(state, "apply", "kind").returncode == 0
    assert (state / "secret-inranker-s3").exists() and (state / "secret-inranker-postgres").exists()


def test_diff_changes_nothing_and_tells_a_difference_from_an_error(state):
    same, differs, broken = (_deploy(state, "diff", "dev", DIFF=code) for code in ("0", "1", "2"))
    assert same.returncode == 0 and "Nothing would change." in same.stdout
    assert differs.returncode == 0 and "Nothing would change." not in differs.stdout
    assert broken.returncode == 2 and broken.stderr.startswith("FAILED: kubectl diff")
    assert not [call for call in _calls(state) if call.startswith(("apply", "create"))]


def test_production_is_not_applied_before_its_values_are_filled_in(state):
    ended = _deploy(state, "apply", "prod")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "CHANGE-ME" in ended.stderr and "mlflow.example" in ended.stderr and "000000000000" in ended.stderr
    assert not [call for call in _calls(state) if not call.startswith("kustomize")]


def test_a_filled_in_overlay_is_applied(state, tmp_path):
    folder = tmp_path / "k8s"
    shutil.copytree(K8S, folder, symlinks=True)
    for path in (folder / "overlays" / "prod").rglob("*.yaml"):
        text = path.read_text().replace("CHANGE-ME", "search-team").replace("000000000000", "123456789012")
        path.write_text(text.replace("mlflow.example", "mlflow.search.internal"))
    environment = {**os.environ, "PATH": f"{state / 'bin'}:{os.environ['PATH']}", "STATE": str(state)}
    environment["KUBECTL"] = kubectl()
    ended = subprocess.run([folder / "deploy", "apply", "prod"], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not list(state.glob("secret-*"))


@pytest.mark.parametrize("target", ["deploy", "diff"])
def test_what_is_missing_is_one_line(target, tmp_path):
    real = kubectl()
    (tmp_path / "config").write_text(yaml.safe_dump(NOBODY))
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "ls", "xargs", "grep", "sort", "make", "awk", "sed", "tr", "pip", "echo"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    for said, overlay, environment in [
        ("kubectl is not installed", "dev", {"PATH": str(tools)}),
        ("there is no overlay 'nope'; k8s/overlays has: dev kind prod", "nope", {}),
        ("there is no overlay '../base'", "../base", {}),
        ("kubectl has no current context", "dev", {"KUBECONFIG": str(tmp_path / "none")}),
        ("the cluster of context lab does not answer", "dev", {"KUBECONFIG": str(tmp_path / "config")}),
    ]:
        action = "apply" if target == "deploy" else "diff"
        given = {**os.environ, **environment}
        ended = subprocess.run(
            [K8S / "deploy", action, overlay], env=given, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 2 and f"FAILED: {said}" in ended.stderr, (said, ended.stderr)
        assert ended.stderr.count("\n") == 1
    assert real


@pytest.mark.parametrize("target", ["deploy", "diff"])
def test_make_hands_the_overlay_over(target):
    kubectl()
    ended = subprocess.run(
        ["make", "-s", target, "OVERLAY=nope"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2 and "FAILED: there is no overlay 'nope'" in ended.stderr
