"""Who reaches whom under the network policies of a rendering, decided as Kubernetes' documentation says."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from tests.contract.manifests import NAMESPACE, Manifest, containers, of_kind, pods, selects


class Pod(NamedTuple):
    """One end of a connection: any pod with these labels."""

    labels: dict[str, str]
    namespace: str = NAMESPACE


#: The other kind of end is an address outside of the cluster's pods.
End = Pod | str


def reaches(manifests: list[Manifest], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies let ``source`` open a connection to ``port`` of ``target`` (a pod's port, not its service's).

    Both ends must allow it. A pod that no policy of a direction selects is open in that direction.
    """
    return all(
        _allows(manifests, direction, own, other, port, protocol)
        for direction, own, other in (("Egress", source, target), ("Ingress", target, source))
    )


def _allows(manifests: list[Manifest], direction: str, own: End, other: End, port: int, protocol: str) -> bool:
    policies = [
        each["spec"]
        for each in of_kind(manifests, "NetworkPolicy")
        if isinstance(own, Pod)
        and each["metadata"]["namespace"] == own.namespace
        and direction in each["spec"]["policyTypes"]
        and selects(each["spec"]["podSelector"], own.labels)
    ]
    peers = "to" if direction == "Egress" else "from"
    return not policies or any(
        _fits_port(manifests, rule, port, protocol)
        and (peers not in rule or any(_fits_peer(peer, own, other) for peer in rule[peers]))
        for policy in policies
        for rule in policy.get(direction.lower(), [])
    )


def _fits_port(manifests: list[Manifest], rule: dict[str, Any], port: int, protocol: str) -> bool:
    named = {
        each["name"]: each["containerPort"]
        for _, pod in pods(manifests)
        for container in containers(pod)
        for each in container.get("ports", [])
    }
    return "ports" not in rule or any(
        named.get(each["port"], each["port"]) == port and each.get("protocol", "TCP") == protocol
        for each in rule["ports"]
    )


def _fits_peer(peer: dict[str, Any], own: End, other: End) -> bool:
    if isinstance(other, str):
        block = peer.get("ipBlock")
        address = ip_address(other)
        return bool(block) and address in ip_network(block["cidr"]) and not any(
            address in ip_network(each) for each in block.get("except", [])
        )  # fmt: skip
    if "ipBlock" in peer:
        return False  # a pod's address may change: policies for pods go by labels
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        in_namespace = isinstance(own, Pod) and other.namespace == own.namespace
    return in_namespace and selects(peer.get("podSelector"), other.labels)
