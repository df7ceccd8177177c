"""Where the Kubernetes API is, from inside a cluster or from a kubeconfig."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import urllib3

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.redaction import line

log = logging.getLogger(__name__)

#: Seconds before the end of a token in which another one is asked for; seconds to connect, and to wait for an answer.
RENEW, TIMEOUT = 300, (3, 10)


def exists() -> bool:
    """Return whether there is a kubeconfig."""
    return any(Path(path).is_file() for path in _paths().split(os.pathsep) if path)


def _paths() -> str:
    """Kubernetes' client takes the variable as it was when it was imported."""
    return variables.kubeconfig()


def load(configuration: Any) -> str:
    """Point a client's configuration to the Kubernetes API; the context's name.

    Raises :class:`UserError` when there is none.
    """
    import yaml
    from kubernetes import config

    try:
        if variables.in_cluster():
            config.load_incluster_config(client_configuration=configuration)
            return "in-cluster"
        if not exists():
            raise UserError("KUBECONFIG: no kubeconfig on this machine", code="kubeconfig-missing")
        config.load_kube_config(_paths(), client_configuration=configuration)
        return str(config.list_kube_config_contexts(_paths())[1]["name"])
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        raise UserError(f"KUBECONFIG: {line(error)}", code="kubeconfig-form") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what its client makes of another file
        raise UserError(
            f"KUBECONFIG: {_paths()} is no kubeconfig ({line(error)}); correct the variable", code="kubeconfig-form"
        ) from error


def renewed(token: str) -> str:
    """Return a service account's token, or a new one for the same account and audience where it ends within minutes.

    The kubeconfig's account is asked for it (TokenRequest); what it may not, or what is no such token, stays as it is.
    """
    from kubernetes import client

    held = _claims(token)
    account = re.fullmatch(r"system:serviceaccount:([^:]+):([^:]+)", str(held.get("sub") or ""))
    ends = held.get("exp")
    if (
        not account
        or not isinstance(ends, int | float)
        or ends - time.time() > RENEW
        or variables.in_cluster()
        or not exists()
    ):
        return token
    audience = held.get("aud") or []
    request = client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=[audience] if isinstance(audience, str) else list(audience))
    )
    configuration = client.Configuration()
    configuration.retries = False
    try:
        load(configuration)
        core = client.CoreV1Api(client.ApiClient(configuration))
        made = core.create_namespaced_service_account_token(account[2], account[1], request, _request_timeout=TIMEOUT)
    except (UserError, client.ApiException, urllib3.exceptions.HTTPError, OSError) as error:
        if ends < time.time():
            log.warning("KF_PIPELINES_TOKEN has run out, and the kubeconfig gives no other: %s", line(error))
        return token
    return str(made.status.token)


def _claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT; empty if it is none."""
    try:
        part = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def through_proxy(configuration: Any) -> None:
    """Reach KFP's service through the Kubernetes API; :class:`UserError` where there is no way to it."""
    try:
        load(configuration)
    except UserError as error:
        raise UserError(
            f"KF_PIPELINES_ENDPOINT is not set (or HOST=https://.../pipeline), and there is no other way to KFP: {error}",
            code=error.code,
        ) from error
    proxy = f"{configuration.host.rstrip('/')}/api/v1/namespaces/{variables.kfp_namespace()}/services/ml-pipeline:http/proxy"
    renew = configuration.refresh_api_key_hook

    def refresh(asked: Any) -> None:
        if renew:
            renew(asked)
        # Renewing the token also sets the address, to the Kubernetes API's own, and itself as the hook.
        asked.host, asked.refresh_api_key_hook = proxy, refresh

    configuration.refresh_api_key_hook = refresh
    configuration.host = proxy
