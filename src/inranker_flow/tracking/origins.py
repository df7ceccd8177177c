"""What MLflow tells of the run that a page is about: its name, its beginning, its settings, and where a browser finds it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from inranker_flow.tracking import connection
from inranker_flow.tracking.mlflow_errors import explained
from inranker_flow.tracking.records import run_page, ui
from inranker_flow.tracking.runs import PARAMETERS, parameters_of


def origin_of(run_id: str) -> dict[str, Any]:
    """Return name, date, settings and page of a run, as `report.page.render` takes them."""
    mlflow_client = connection.client()
    with explained(f"read run {run_id}"):
        run = mlflow_client.get_run(run_id)
        kept = {each.path for each in mlflow_client.list_artifacts(run_id)}
        settings = parameters_of(run) if PARAMETERS in kept else {}
    begun = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return {
        "name": run.info.run_name or run_id,
        "date": f"{begun:%Y-%m-%d %H:%M} UTC",
        "run": run_id,
        "settings": settings,
        "mlflow": run_page(run_id),
    }


def version_page(name: str, version: str) -> str:
    """Return the page of a registered version in MLflow's UI; "" where no browser finds it."""
    return f"{base}/#/models/{name}/versions/{version}" if (base := ui()) else ""
