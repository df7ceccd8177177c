"""What the values of the section `cluster` mean together."""

from __future__ import annotations

from inranker_flow.config.cluster import ClusterConfig
from inranker_flow.errors import UserError


def check(cluster: ClusterConfig) -> None:
    """Raise :class:`UserError` for the first thing that cannot be scheduled, naming its key."""
    if cluster.gpus > cluster.node_gpus:
        raise UserError(
            f"cluster.gpus {cluster.gpus}: one node of the pool has {cluster.node_gpus} "
            "(cluster.node_gpus); ask for fewer, or say what the nodes have",
            code="setting-conflict",
        )
    for number, each in enumerate(cluster.gpu_tolerations):
        where = f"cluster.gpu_tolerations[{number}]"
        if each.operator == "Exists" and each.value:
            raise UserError(
                f"{where}.value: Kubernetes takes none beside the operator Exists; set operator to Equal",
                code="setting-conflict",
            )
        if each.operator == "Equal" and not each.key:
            raise UserError(f"{where}.key: empty; only the operator Exists may go without one", code="setting-missing")
