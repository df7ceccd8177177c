"""Whether MLflow takes what this run will write: an experiment, a model, an alias; asked with a scratch model."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from inranker_flow import tracking
from inranker_flow.errors import UserError

ALIAS = "preflight"


def check_mlflow() -> str:
    """Create, read and delete a scratch model with a version and an alias; nothing of it is left."""
    if os.environ.get("INRANKER_KFP_RUN_ID") and "MLFLOW_TRACKING_URI" not in os.environ:
        raise UserError(
            "MLFLOW_TRACKING_URI is not set: a database in this pod would end with it; set it in the ConfigMap "
            "inranker-settings"
        )
    client = tracking.client()
    uri = os.environ.get("MLFLOW_TRACKING_URI", "MLflow's default database")
    name = f"inranker-preflight-{uuid.uuid4().hex[:12]}"
    with _explained(uri, "read or create the experiment"):
        tracking.experiment_id(client)
    with _explained(uri, "register a model"):
        client.create_registered_model(name)
    try:
        _use(client, name, uri)
    finally:
        with _explained(uri, f"delete the scratch model {name}"):
            client.delete_registered_model(name)
    return f"{uri}: experiment, model, version and alias can be written"


def _use(client: Any, name: str, uri: str) -> None:
    with _explained(uri, "create a model version"):
        # The registry keeps the address as it is; nothing lies there.
        version = client.create_model_version(name, source=f"s3://inranker-preflight/{name}").version
    with _explained(uri, "set, read and delete an alias"):
        client.set_registered_model_alias(name, ALIAS, version)
        found = client.get_model_version_by_alias(name, ALIAS).version
        if str(found) != str(version):
            raise UserError(f"{uri}: an alias set to version {version} leads to {found}; check that MLflow server")
        client.delete_registered_model_alias(name, ALIAS)


@contextmanager
def _explained(uri: str, action: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # MLflow's errors are imported by three modules only; each has its text
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{uri}: cannot {action}: {text}; {_remedy(text)}") from error


def _remedy(text: str) -> str:
    if "Invalid Host header" in text or "DNS rebinding" in text:
        return "start the MLflow server with --allowed-hosts and the host of this address"
    if any(word in text for word in ("PERMISSION_DENIED", "Permission denied", "401", "403", "UNAUTHENTICATED")):
        return "grant it to the account of the runs (MLFLOW_TRACKING_TOKEN; on a cluster: Secret inranker-mlflow)"
    return "see that server's log"
