"""Whether the workflow of a run is still there: KFP goes on to call a run RUNNING whose workflow was deleted."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.services import kfp_nodes
from pipelines.cluster import Kubernetes, Unasked
from pipelines.kfp_api import Api

#: In place of the state that KFP has of such a run.
GONE = "GONE"
EXPLAINED = (
    "its workflow was deleted (as with the schedule that had started it), so it will not end, whatever KFP calls it"
)
#: Seconds after a run's creation in which its workflow may not be there yet.
YOUNG = 60


def is_gone(api: Api, run: Mapping[str, Any]) -> bool:
    """Return whether a run (as JSON data) that KFP calls unfinished has no workflow any more.

    Kubernetes is asked; where it cannot be, a run is gone with the recurring run that had started it, which owns its
    workflows. Where nobody says so it is not gone.
    """
    if run.get("state") in kfp_nodes.FINAL or _age(run) < YOUNG:
        return False
    try:
        return Kubernetes().workflow(api.pod_namespace, str(run["run_id"])) is None
    except (UserError, Unasked):
        owner = str(run.get("recurring_run_id") or "")
        return bool(owner) and not api.has_schedule(owner)


def _age(run: Mapping[str, Any]) -> float:
    created = datetime.datetime.fromisoformat(str(run["created_at"]))
    return (datetime.datetime.now(datetime.UTC) - created).total_seconds()
