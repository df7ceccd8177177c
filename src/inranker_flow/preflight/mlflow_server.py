"""Whether MLflow takes what this run will write: an experiment, a model, an alias; asked with a scratch model."""

from __future__ import annotations

import uuid
from typing import Any

from inranker_flow import redaction
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.tracking import connection
from inranker_flow.tracking.mlflow_errors import explained

ALIAS = "preflight"


def check_mlflow() -> str:
    """Create, read and delete a scratch model with a version and an alias; nothing of it is left."""
    if variables.kfp_run() and not variables.tracking_uri():
        raise UserError(
            "MLFLOW_TRACKING_URI is not set: a database in this pod would end with it; set it in the ConfigMap "
            "inranker-settings",
            code="registry-unset",
        )
    client = connection.client()
    uri = redaction.redact(variables.tracking_uri()) or "MLflow's default database"
    name = f"inranker-preflight-{uuid.uuid4().hex[:12]}"
    connection.experiment_id(client)
    with explained("register a model"):
        client.create_registered_model(name)
    try:
        _use(client, name, uri)
    finally:
        with explained(f"delete the scratch model {name}"):
            client.delete_registered_model(name)
    return f"{uri}: experiment, model, version and alias can be written"


def _use(client: Any, name: str, uri: str) -> None:
    with explained("create a model version"):
        # The registry keeps the address as it is; nothing lies there.
        version = client.create_model_version(name, source=f"s3://inranker-preflight/{name}").version
    with explained("set, read and delete an alias"):
        client.set_registered_model_alias(name, ALIAS, version)
        found = client.get_model_version_by_alias(name, ALIAS).version
        if str(found) != str(version):
            raise UserError(
                f"{uri}: an alias set to version {version} leads to {found}; check that MLflow server",
                code="registry-misbehaves",
            )
        client.delete_registered_model_alias(name, ALIAS)
