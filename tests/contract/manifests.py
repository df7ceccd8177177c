"""The Kubernetes manifests as a cluster would get them: rendered by kubectl, with what the tests ask of them."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from ipaddress import ip_address, ip_network
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
CLUSTER_SCOPED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "ResourceFlavor", "ClusterQueue"}

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
def _render(case: str, folder: str) -> str:
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
    ended = subprocess.run([kubectl(), "kustomize", str(target)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def render(case: str, folder: Path) -> list[Manifest]:
    """Everything that ``case`` applies (an overlay, or ``with-COMPONENT``), and what its Sensors create in their turn.

    ``folder`` is a copy of `k8s/` that may be written to.
    """
    kubectl()
    manifests: list[Manifest] = list(yaml.safe_load_all(_render(case, str(folder))))
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


class Network:
    """What the network policies of a rendering let through, decided as the Kubernetes documentation says.

    An end is a pod's labels (in the project's namespace), ``"namespace:NAME"`` for any pod there, or an address.
    """

    def __init__(self, manifests: list[Manifest]) -> None:
        self._policies = [each["spec"] for each in of_kind(manifests, "NetworkPolicy")]
        self._ports = {
            port["name"]: port["containerPort"]
            for _, pod in pods(manifests)
            for container in containers(pod)
            for port in container.get("ports", [])
        }

    def lets_through(self, source: Any, target: Any, port: int, protocol: str = "TCP") -> bool:
        out = not isinstance(source, dict) or self._allows("Egress", source, target, port, protocol)
        into = not isinstance(target, dict) or self._allows("Ingress", target, source, port, protocol)
        return out and into

    def _allows(self, direction: str, own: dict[str, str], other: Any, port: int, protocol: str) -> bool:
        ours = [
            each for each in self._policies if selects(each["podSelector"], own) and direction in each["policyTypes"]
        ]
        if not ours:
            return True
        rules, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        return any(
            self._fits_port(rule, port, protocol)
            and (peers not in rule or any(self._fits_peer(peer, other) for peer in rule[peers]))
            for policy in ours
            for rule in policy.get(rules, [])
        )

    def _fits_port(self, rule: dict[str, Any], port: int, protocol: str) -> bool:
        listed = rule.get("ports")
        return not listed or any(
            self._ports.get(each["port"], each["port"]) == port and each.get("protocol", "TCP") == protocol
            for each in listed
        )

    def _fits_peer(self, peer: dict[str, Any], other: Any) -> bool:
        if "ipBlock" in peer:
            if isinstance(other, dict) or other.startswith("namespace:"):
                return False  # a pod's address may change: policies for pods go by labels
            address, block = ip_address(other), peer["ipBlock"]
            inside = address in ip_network(block["cidr"])
            return inside and not any(address in ip_network(each) for each in block.get("except", []))
        if isinstance(other, dict):
            own = {"kubernetes.io/metadata.name": NAMESPACE}
            return selects(peer.get("podSelector"), other) and (
                "namespaceSelector" not in peer or selects(peer["namespaceSelector"], own)
            )
        if not other.startswith("namespace:") or "namespaceSelector" not in peer:
            return False
        return selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.removeprefix("namespace:")})
