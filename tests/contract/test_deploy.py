"""`make deploy` and `make diff`: what is wrong is one line before anything is touched; credentials are made once.

There is no cluster here: kubectl is real where it needs none, and a recorder stands in for it where one would answer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

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
#: Answers as a cluster would that has the namespaces and secrets whose files are in $STATE; writes down what it is asked, and
#: keeps what it is given.
RECORDER = """#!/usr/bin/env bash
echo "$*" | sed "s#/tmp/[^ ]*/##" >> "$STATE/calls"
keep() { for file in "$@"; do [[ $file != */*.yaml ]] || cat "$file" >> "$STATE/applied"; done; }
case "$*" in
  kustomize*) exec "$KUBECTL" "$@" ;;
  "config current-context") echo lab ;;
  "get --raw"*) echo ok ;;
  "get namespace"*) [ ! -f "$STATE/namespace-$3" ] || echo "namespace/$3" ;;
  "create -f -") cat > "$STATE/created" ;;
  "get secret"*) [ ! -f "$STATE/secret-$3" ] || echo "secret/$3" ;;
  "create secret generic"*) cat > "$STATE/secret-$4" ;;
  diff*) exit "${DIFF:-0}" ;;
  *--dry-run=server*) [ -z "${REFUSES:-}" ] || { echo "Apply failed with 1 conflict" >&2; exit 1; } ;;
  "apply -f "*/first.yaml*) cat "$3" > "$STATE/first" ;;
  apply*) keep "$@" ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def state(tmp_path):
    kubectl()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").write_text(RECORDER)
    (tmp_path / "bin" / "kubectl").chmod(0o755)
    (tmp_path / "namespace-inranker").touch()
    return tmp_path


def _deploy(state, action, overlay, folder=K8S, **environment):
    path = f"{state / 'bin'}{os.pathsep}{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, "STATE": str(state), "KUBECTL": kubectl(), **environment}
    return subprocess.run([folder / "deploy", action, overlay], env=given, capture_output=True, text=True, check=False)


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
    assert _calls(state)[-1] == "apply -f shared.yaml --server-side --field-manager=inranker-flow"
    assert _deploy(state, "apply", "dev").returncode == 0
    assert {path.name: path.read_text() for path in state.glob("secret-*")} == made


def _applied(state):
    return list(yaml.safe_load_all((state / "applied").read_text()))


def test_a_namespace_that_is_there_is_left_alone_and_a_missing_one_is_made(state):
    """A Profile's labels decide what Kubeflow's own policies let through."""
    assert _deploy(state, "apply", "dev").returncode == 0
    assert not (state / "created").exists() and "Namespace" not in {each["kind"] for each in _applied(state) if each}
    for overlay, level in (("dev", "restricted"), ("kind", "baseline")):
        ended = _deploy(state, "apply", overlay, NAMESPACE="search")
        assert ended.returncode == 0 and "namespace: search" in ended.stdout, ended.stderr
        made = yaml.safe_load((state / "created").read_text())
        assert (made["kind"], made["metadata"]["name"]) == ("Namespace", "search")
        assert made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == level


def test_what_another_tool_has_set_is_taken_over_only_where_the_overlay_owns_it_or_when_asked(state):
    assert _deploy(state, "apply", "kind").returncode == 0
    assert _deploy(state, "apply", "kind", FORCE="1").returncode == 0
    applied = [call for call in _calls(state) if call.startswith("apply -f")]
    assert [call.split()[2] for call in applied] == ["owned.yaml", "shared.yaml"] * 2
    assert [" --force-conflicts" in call for call in applied] == [True, False, True, True]
    owned = _applied(state)[0]
    assert (owned["kind"], owned["metadata"]["name"]) == ("ConfigMap", "kfp-launcher")


def test_what_the_cluster_refuses_is_not_half_applied(state):
    refused = _deploy(state, "apply", "kind", REFUSES="1")
    assert refused.returncode == 2 and "nothing of it was applied; FORCE=1 takes over" in refused.stderr
    assert "Apply failed with 1 conflict" in refused.stderr
    assert not (state / "applied").exists() and not list(state.glob("secret-*"))


#: Of KFP's manifests at 2.17.0 what the overlay changes; the rest is not in this repository, and a test reaches no other.
KFP = {
    "cluster-scoped-resources": """
apiVersion: v1
kind: Namespace
metadata: {name: kubeflow}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kubeflow-pipelines-public}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kubeflow-pipelines-public}
subjects: [{kind: ServiceAccount, name: ml-pipeline, namespace: kubeflow}]
""",
    "env/platform-agnostic": """
apiVersion: v1
kind: ConfigMap
metadata: {name: workflow-controller-configmap}
data: {artifactRepository: "s3: {endpoint: seaweedfs.kubeflow.svc:9000}", executor: "imagePullPolicy: IfNotPresent"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kfp-launcher}
data: {defaultPipelineRoot: ""}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ml-pipeline}
spec:
  selector: {matchLabels: {app: ml-pipeline}}
  template:
    metadata: {labels: {app: ml-pipeline}}
    spec:
      containers:
        - name: ml-pipeline-api-server
          image: ghcr.io/kubeflow/kfp-api-server:2.17.0
          env: [{name: OBJECTSTORECONFIG_HOST, value: seaweedfs.kubeflow}, {name: OBJECTSTORECONFIG_PORT, value: "9000"}]
""",
}


def test_kfp_standalone_is_right_for_any_namespace(state):
    folder = Path(shutil.copytree(K8S, state / "k8s", symlinks=True))
    for name, content in KFP.items():
        base = state / "kfp" / name
        base.mkdir(parents=True)
        (base / "all.yaml").write_text(content)
        (base / "kustomization.yaml").write_text("{namespace: kubeflow, resources: [all.yaml]}")
        users = [
            path
            for path in (folder / "kfp-standalone").rglob("kustomization.yaml")
            if f"github.com/kubeflow/pipelines/manifests/kustomize/{name}?ref=2.17.0" in path.read_text()
        ]
        [kustomization] = users
        up = os.path.relpath(base, kustomization.parent)
        kustomization.write_text(re.sub(r"github\.com/\S+", up, kustomization.read_text()))
    ended = _deploy(state, "apply", "kfp-standalone", folder, NAMESPACE="search")
    assert ended.returncode == 0, ended.stderr
    assert "export KF_PIPELINES_NAMESPACE=search" in ended.stdout
    assert "kubectl port-forward -n search svc/ml-pipeline-ui 8080:80" in ended.stdout
    made = yaml.safe_load((state / "created").read_text())["metadata"]
    assert made["name"] == "search" and made["labels"]["pod-security.kubernetes.io/enforce"] == "baseline"
    [binding] = yaml.safe_load_all((state / "first").read_text())
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "ml-pipeline", "namespace": "search"}]
    objects = {each["metadata"]["name"]: each for each in _applied(state) if each}
    assert set(objects) == {"workflow-controller-configmap", "ml-pipeline"}, "kfp-launcher is the overlay's of the runs"
    assert {each["metadata"]["namespace"] for each in objects.values()} == {"search"}
    archive = yaml.safe_load(objects["workflow-controller-configmap"]["data"]["artifactRepository"])
    assert archive["archiveLogs"] is True and archive["s3"]["endpoint"] == "seaweedfs:9000"
    assert objects["workflow-controller-configmap"]["data"]["executor"] == "imagePullPolicy: IfNotPresent"
    [server] = objects["ml-pipeline"]["spec"]["template"]["spec"]["containers"]
    assert {each["name"]: each["value"] for each in server["env"]} == {
        "OBJECTSTORECONFIG_HOST": "seaweedfs",
        "OBJECTSTORECONFIG_PORT": "9000",
    }
    assert "kubeflow" not in (state / "applied").read_text().replace("ghcr.io/kubeflow", "")


def test_kind_uses_the_same_credentials(state):
    assert _deploy(state, "apply", "kind").returncode == 0
    assert (state / "secret-inranker-s3").exists() and (state / "secret-inranker-postgres").exists()


def test_diff_changes_nothing_and_tells_a_difference_from_an_error(state):
    same, differs, broken = (_deploy(state, "diff", "dev", DIFF=code) for code in ("0", "1", "2"))
    assert same.returncode == 0 and "Nothing would change." in same.stdout
    assert differs.returncode == 0 and "Nothing would change." not in differs.stdout
    assert broken.returncode == 2 and broken.stderr.startswith("FAILED: kubectl diff")
    missing = _deploy(state, "diff", "dev", NAMESPACE="search")
    assert missing.returncode == 0 and "Namespace search is not there" in missing.stdout
    assert (
        "ServiceAccount/inranker-runner\n" in missing.stdout
        and "ClusterRole/inranker-runner-search\n" in missing.stdout
    )
    assert not [call for call in _calls(state) if call.startswith(("apply", "create"))]


def test_production_is_not_applied_before_its_values_are_filled_in(state):
    ended = _deploy(state, "apply", "prod")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    for value in ("CHANGE-ME", "mlflow.example", "000000000000", "192.0.2.1"):
        assert value in ended.stderr
    assert not [call for call in _calls(state) if not call.startswith("kustomize")]


def test_a_filled_in_overlay_is_applied(state, tmp_path):
    folder = tmp_path / "k8s"
    shutil.copytree(K8S, folder, symlinks=True)
    for path in (folder / "overlays" / "prod").rglob("*.yaml"):
        text = path.read_text().replace("CHANGE-ME", "search-team").replace("000000000000", "123456789012")
        path.write_text(text.replace("mlflow.example", "mlflow.search.internal").replace("192.0.2.1", "10.100.0.1"))
    ended = _deploy(state, "apply", "prod", folder)
    assert ended.returncode == 0, ended.stderr
    assert not list(state.glob("secret-*"))


@pytest.mark.parametrize("target", ["deploy", "diff"])
def test_what_is_missing_is_one_line(target, tmp_path):
    real = kubectl()
    (tmp_path / "config").write_text(yaml.safe_dump(NOBODY))
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "ls", "xargs", "make", "mktemp", "rm", "ln", "mkdir", "tail", "echo"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    for said, overlay, environment in [
        ("kubectl is not installed", "dev", {"PATH": str(tools)}),
        ("there is no overlay 'nope'; there are: kfp-standalone dev kind prod", "nope", {}),
        ("there is no overlay '../base'", "../base", {}),
        ("NAMESPACE='Team_A' is no namespace's name", "dev", {"NAMESPACE": "Team_A"}),
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
@pytest.mark.parametrize(
    ("variable", "said"),
    [("OVERLAY=nope", "there is no overlay 'nope'"), ("NAMESPACE=Team_A", "NAMESPACE='Team_A' is no namespace's name")],
)
def test_make_hands_overlay_and_namespace_over(target, variable, said):
    kubectl()
    ended = subprocess.run(["make", "-s", target, variable], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and f"FAILED: {said}" in ended.stderr
