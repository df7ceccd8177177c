"""Start now what a schedule would start at its next date: the Job of an event, with the standard library alone.

The schedule (`make schedule`) holds the pipeline's version and its validated arguments, so that nothing is resolved here.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

#: States of a run that is not over.
LIVE = ("RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED")
API = "/apis/v2beta1"


class Refused(Exception):
    """What a person must mend; the message is one line."""


def main() -> None:
    """Wait until the upload is over, then start a run unless one of this schedule's work is on."""
    endpoint, namespace, name = (_setting(key) for key in ("KF_PIPELINES_ENDPOINT", "NAMESPACE", "SCHEDULE"))
    time.sleep(float(os.environ.get("QUIET_SECONDS", "0")))
    where = {"namespace": namespace}
    schedules = list(_all(endpoint, "recurringruns", "recurringRuns", where))
    found = [each for each in schedules if each.get("display_name") == name]
    if not found:
        known = ", ".join(sorted(each.get("display_name", "") for each in schedules)) or "none"
        raise Refused(f"namespace {namespace} has no schedule {name!r} (it has: {known}); create it with make schedule")
    schedule = next((each for each in found if each.get("status") != "DISABLED"), found[0])
    if schedule.get("status") == "DISABLED":
        print(f"schedule {name!r} is disabled: nothing is started")
        return
    version, config = schedule["pipeline_version_reference"], schedule.get("runtime_config") or {}
    # The most recent runs are enough: an older one of this work would have kept them from starting.
    recent = _call(endpoint, "runs", {**where, "page_size": "100", "sort_by": "created_at desc"}).get("runs") or []
    for run in recent:
        parameters = (run.get("runtime_config") or {}).get("parameters")
        same = run.get("pipeline_version_reference") == version and parameters == config.get("parameters")
        # Deleting a recurring run deletes the workflows of its runs, which KFP then calls RUNNING for ever.
        owner = run.get("recurring_run_id")
        gone = owner and owner not in {each.get("recurring_run_id") for each in schedules}
        if same and run.get("state", "PENDING") in LIVE and not gone:
            print(f"run {run['run_id']} of this work is going on: nothing is started; the schedule will look again")
            return
    wanted = {
        "display_name": f"{name} on event {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}",
        "experiment_id": schedule.get("experiment_id"),
        "pipeline_version_reference": version,
        "runtime_config": config,
        "service_account": schedule.get("service_account"),
    }
    started = _call(endpoint, "runs", {}, {key: value for key, value in wanted.items() if value})
    print(f"started run {started['run_id']}: {endpoint}/#/runs/details/{quote(started['run_id'])}")


def _setting(key: str) -> str:
    value = os.environ.get(key, "").strip().rstrip("/")
    if not value:
        raise Refused(f"{key} is not set; see the ConfigMap inranker-settings and the Sensor")
    return value


def _all(endpoint: str, path: str, field: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Every item of a list that comes in pages."""
    page = ""
    while True:
        answer = _call(endpoint, path, {**query, "page_size": "100", **({"page_token": page} if page else {})})
        yield from answer.get(field) or []
        page = answer.get("next_page_token") or ""
        if not page:
            return


def _number(text: str) -> float:
    """KFP keeps every number as a double; an integer parameter must go back as an integer."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _call(endpoint: str, path: str, query: dict[str, str], body: dict[str, Any] | None = None) -> dict[str, Any]:
    url = f"{endpoint}{API}/{path}" + (f"?{urlencode(query)}" if query else "")
    request = urllib.request.Request(url, data=json.dumps(body).encode() if body else None)
    request.add_header("Content-Type", "application/json")
    token = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", ""))
    if token.is_file():
        request.add_unredirected_header("Authorization", f"Bearer {token.read_text(encoding='utf-8').strip()}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer, parse_float=_number)
            return found
    except urllib.error.HTTPError as error:
        said = " ".join(error.read().decode(errors="replace").split())[:300]
        raise Refused(f"{endpoint} answered HTTP {error.code} for {path}: {said}") from error
    except (OSError, ValueError, HTTPException) as error:
        raise Refused(f"{endpoint} does not answer as Kubeflow Pipelines' API ({error})") from error


if __name__ == "__main__":
    try:
        main()
    except Refused as refused:
        print(f"FAILED: {refused}", file=sys.stderr)
        sys.exit(2)
