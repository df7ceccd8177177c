"""The Kubernetes manifests as a cluster would get them: rendered by kubectl, with what the tests ask of them."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
NAMESPACE = "inranker"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir() if path.is_dir())
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir() if path.is_dir())
CASES = [*OVERLAYS, *(f"with-{name}" for name in COMPONENTS)]
CLUSTER_SCOPED = {"ClusterRole", "ClusterRoleBinding", "ResourceFlavor", "ClusterQueue"}

Manifest = dict[str, Any]
Pod = dict[str, Any]


def kubectl() -> str:
    """The program; without it the test is skipped, but fails in continuous integration, where it must be."""
    found = shutil.which("kubectl")
    if not found:
        missing = "kubectl is not installed here: the manifests cannot be rendered"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    return found


@cache
def _render(case: str, folder: str, namespace: str) -> list[Manifest]:
    target = Path(folder) / "overlays" / case
    if case.startswith("with-"):
        name = case.removeprefix("with-")
        in_dev = f"components/{name}\n" in (K8S / "overlays" / "dev" / "kustomization.yaml").read_text()
        target.mkdir(exist_ok=True)
        content = {
            "resources": ["../../base" if in_dev else "../dev"],
            "components": [f"../../components/{name}"],
        }
        (target / "kustomization.yaml").write_text(yaml.safe_dump(content))
    given = {**os.environ, "NAMESPACE": namespace}
    command = [str(Path(folder) / "deploy"), "render", case]
    ended = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return list(yaml.load_all(ended.stdout, yaml.CSafeLoader))


def render(case: str, folder: Path, namespace: str = NAMESPACE) -> list[Manifest]:
    """Everything that ``case`` applies (an overlay, or ``with-COMPONENT``), and what its Sensors create in their turn.

    ``folder`` is a copy of `k8s/` that may be written to.
    """
    kubectl()
    manifests = _render(case, str(folder), namespace)
    created = [
        copy.deepcopy(trigger["template"]["k8s"]["source"]["resource"])
        for manifest in manifests
        if manifest["kind"] == "Sensor"
        for trigger in manifest["spec"]["triggers"]
    ]
    return manifests + created


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [each for each in manifests if each["kind"] in kinds]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    found = [each for each in of_kind(manifests, kind) if each["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind}/{name}"
    return found[0]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Pod]]:
    """(workload, pod template) of everything that starts pods."""
    for each in of_kind(manifests, "Deployment", "StatefulSet", "Job", "DaemonSet", "CronJob"):
        yield f"{each['kind']}/{each['metadata']['name']}", each["spec"]["template"]


def containers(pod: Pod) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def grants(manifests: list[Manifest], account: str) -> set[tuple[str, str, str, str]]:
    """(API group, resource, verb, name or empty) of everything that a service account may do."""
    found = set()
    for binding in of_kind(manifests, "RoleBinding", "ClusterRoleBinding"):
        if account not in [subject["name"] for subject in binding["subjects"]]:
            continue
        role = named(manifests, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        for rule in role["rules"]:
            found |= {
                (group, resource, verb, name)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
                for name in rule.get("resourceNames", [""])
            }
    return found


def selects(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    """Kubernetes' label selector; an empty one selects everything."""
    for key, value in ((selector or {}).get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in (selector or {}).get("matchExpressions") or []:
        key, operator, values = term["key"], term["operator"], term.get("values", [])
        fits = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not fits:
            return False
    return True
