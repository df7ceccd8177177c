"""Where the Kubernetes API is, from inside a cluster or from a kubeconfig."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from inranker_flow.errors import UserError


def in_cluster() -> bool:
    """Whether this is a pod."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def kfp_namespace() -> str:
    """Where KFP itself is installed."""
    return os.environ.get("KF_PIPELINES_NAMESPACE", "kubeflow")


def exists() -> bool:
    """Whether there is a kubeconfig."""
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return any(Path(path).is_file() for path in paths.split(os.pathsep) if path)


def load(configuration: Any) -> str:
    """Point a client's configuration to the Kubernetes API; the context's name.

    Raises :class:`UserError` when there is none.
    """
    from kubernetes import config

    try:
        if in_cluster():
            config.load_incluster_config(client_configuration=configuration)
            return "in-cluster"
        if not exists():
            raise UserError("KUBECONFIG: no kubeconfig on this machine")
        config.load_kube_config(client_configuration=configuration)
        return str(config.list_kube_config_contexts()[1]["name"])
    except config.ConfigException as error:
        raise UserError(f"KUBECONFIG: {' '.join(str(error).split())}") from error


def through_proxy(configuration: Any) -> None:
    """Reach KFP's service through the Kubernetes API; :class:`UserError` where there is no way to it."""
    try:
        load(configuration)
    except UserError as error:
        raise UserError(
            f"KF_PIPELINES_ENDPOINT is not set (or HOST=https://.../pipeline), and there is no other way to KFP: {error}"
        ) from error
    configuration.host = (
        f"{configuration.host.rstrip('/')}/api/v1/namespaces/{kfp_namespace()}/services/ml-pipeline:http/proxy"
    )
