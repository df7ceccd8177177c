"""A Kubeflow Pipelines API server for tests: real HTTP, kept state, and the real server's checks on what it is sent.

Every request and every answer is held against the models of `kfp-server-api`, and against the published OpenAPI document
where one lies in ``../shared/reference/schemas``. Uploaded packages go through KFP's own protobufs.
"""

from __future__ import annotations

import base64
import calendar
import datetime
import email
import email.policy
import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.http_server import LoopbackServer

SWAGGER = Path(__file__).parents[2] / "shared" / "reference" / "schemas" / "kfp_api_2.17.0.swagger.json"
#: The real server's limit on a run's parameters (MAX_PARAMETER_BYTES).
PARAMETER_BYTES = 10_000
LIST = ("page_token", "page_size", "sort_by", "filter")


@dataclass(frozen=True)
class Operation:
    """One call: its method and path, the parameters in its query, and the models of its body and its answer."""

    method: str
    path: str
    query: tuple[str, ...] = ()
    body: str = ""
    answer: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/:]+)", re.escape(self.path)))


#: The calls that this server answers, by their names in the OpenAPI document.
OPERATIONS = {
    "HealthzService_GetHealthz": Operation("GET", "/healthz", answer="V2beta1GetHealthzResponse"),
    "PipelineService_ListPipelines": Operation(
        "GET", "/pipelines", (*LIST, "namespace"), answer="V2beta1ListPipelinesResponse"
    ),
    "PipelineService_CreatePipeline": Operation("POST", "/pipelines", (), "V2beta1Pipeline", "V2beta1Pipeline"),
    "PipelineService_GetPipeline": Operation("GET", "/pipelines/{pipeline_id}", answer="V2beta1Pipeline"),
    "PipelineService_ListPipelineVersions": Operation(
        "GET", "/pipelines/{pipeline_id}/versions", LIST, answer="V2beta1ListPipelineVersionsResponse"
    ),
    "PipelineService_GetPipelineVersion": Operation(
        "GET", "/pipelines/{pipeline_id}/versions/{pipeline_version_id}", answer="V2beta1PipelineVersion"
    ),
    "UploadPipeline": Operation(
        "POST",
        "/pipelines/upload",
        ("name", "display_name", "description", "namespace", "tags"),
        "file",
        "V2beta1Pipeline",
    ),
    "UploadPipelineVersion": Operation(
        "POST",
        "/pipelines/upload_version",
        ("name", "display_name", "pipelineid", "description", "tags"),
        "file",
        "V2beta1PipelineVersion",
    ),
    "ExperimentService_ListExperiments": Operation(
        "GET", "/experiments", (*LIST, "namespace"), answer="V2beta1ListExperimentsResponse"
    ),
    "ExperimentService_CreateExperiment": Operation(
        "POST", "/experiments", (), "V2beta1Experiment", "V2beta1Experiment"
    ),
    "RunService_ListRuns": Operation(
        "GET", "/runs", (*LIST, "namespace", "experiment_id"), answer="V2beta1ListRunsResponse"
    ),
    "RunService_CreateRun": Operation("POST", "/runs", ("experiment_id",), "V2beta1Run", "V2beta1Run"),
    "RunService_GetRun": Operation("GET", "/runs/{run_id}", ("experiment_id",), answer="V2beta1Run"),
    "RecurringRunService_ListRecurringRuns": Operation(
        "GET", "/recurringruns", (*LIST, "namespace", "experiment_id"), answer="V2beta1ListRecurringRunsResponse"
    ),
    "RecurringRunService_CreateRecurringRun": Operation(
        "POST", "/recurringruns", (), "V2beta1RecurringRun", "V2beta1RecurringRun"
    ),
    "RecurringRunService_GetRecurringRun": Operation(
        "GET", "/recurringruns/{recurring_run_id}", answer="V2beta1RecurringRun"
    ),
    "RecurringRunService_DeleteRecurringRun": Operation(
        "DELETE", "/recurringruns/{recurring_run_id}", ("propagation_policy",)
    ),
    "RecurringRunService_EnableRecurringRun": Operation("POST", "/recurringruns/{recurring_run_id}:enable"),
    "RecurringRunService_DisableRecurringRun": Operation("POST", "/recurringruns/{recurring_run_id}:disable"),
}
PREFIX = "/apis/v2beta1"


class Refusal(Exception):
    """An HTTP error answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Fault:
    """What happens to the next call of an operation: ``status``, or no answer (0); ``commits`` does the work first.

    ``silent`` keeps the connection open without a word instead of closing it.
    """

    status: int = 0
    commits: bool = False
    silent: bool = False


@dataclass
class Script:
    """What GetRun answers, one step for each call; the last step stays."""

    steps: list[dict[str, Any]] = field(default_factory=list)


class KfpApi(LoopbackServer):
    """The server runs while its context is open.

    ``tokens`` maps Bearer tokens to the namespaces that they may use, ``expired`` tokens get 401, ``cookies`` are
    accepted Cookie headers. With ``login`` whoever brings neither is redirected to a login page, as oauth2-proxy does.
    ``prefix`` is what stands before ``/apis`` in every path. With ``ui`` the UI is at the same address, as behind Kubeflow's
    gateway. Without ``plugins`` it is older than their fields, and refuses what it does not know.
    """

    def __init__(
        self,
        *,
        multi_user: bool = True,
        namespaces: tuple[str, ...] = ("team-a", "inranker"),
        token: str = "good",
        expired: tuple[str, ...] = ("old",),
        cookies: tuple[str, ...] = (),
        login: bool = False,
        prefix: str = "",
        ui: bool = True,
        plugins: bool = True,
    ) -> None:
        self.ui, self.plugins = ui, plugins
        self.multi_user, self.namespaces, self.token, self.expired = multi_user, namespaces, token, expired
        self.cookies, self.login, self.prefix = cookies, login, prefix
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring_runs: dict[str, dict[str, Any]] = {}
        #: Names of the operations that were called, in order, refused ones too.
        self.calls: list[str] = []
        #: Requests that broke the API's contract (also answered with 400): tests assert that there are none.
        self.violations: list[str] = []
        self._namespace_of: dict[str, str] = {}
        self._scripts: dict[str, Script] = {}
        self._faults: dict[str, list[Fault]] = {}
        self._lock = threading.RLock()
        self._released = threading.Event()
        self._clock = datetime.datetime(2026, 11, 25, 3, 0, 0, tzinfo=datetime.UTC)
        super().__init__(_handler(self))

    def __exit__(self, *_: object) -> None:
        self._released.set()
        super().__exit__()

    # --- what tests arrange -------------------------------------------------------------------------------------------

    def fail_next(self, operation: str, *faults: Fault) -> None:
        """The next calls of ``operation`` meet these faults, in order."""
        assert operation in OPERATIONS, operation
        self._faults.setdefault(operation, []).extend(faults)

    def play(self, run_id: str, *steps: dict[str, Any]) -> None:
        """GetRun of this run answers these changes to it, one for each call; the last one stays."""
        self._scripts[run_id] = Script(list(steps))

    def set_run(self, run_id: str, **changes: Any) -> None:
        self.runs[run_id].update(changes)

    def now(self) -> str:
        """A clock that moves a second with each look: created things have an order."""
        self._clock += datetime.timedelta(seconds=1)
        return self._clock.isoformat().replace("+00:00", "Z")

    # --- what the server answers --------------------------------------------------------------------------------------

    def answer(
        self, method: str, target: str, headers: Any, body: bytes
    ) -> tuple[int, dict[str, Any] | str, Fault | None]:
        """Status, body, and the fault that the connection meets."""
        split = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(split.query, keep_blank_values=True).items()}
        with self._lock:
            try:
                if self.ui and method == "GET" and split.path == f"{self.prefix}/":
                    return 200, "<html>Kubeflow Pipelines</html>", None
                name, operation, path = self._route(method, split.path)
                self.calls.append(name)
                if redirect := self._authenticate(headers):
                    return 302, redirect, None
                faults = self._faults.get(name, [])
                fault = faults.pop(0) if faults else None
                if fault and not fault.commits:
                    return fault.status, _status(fault.status, "injected"), fault
                found = self._answer(name, operation, path, query, headers, body)
                if fault:
                    return fault.status, _status(fault.status, "injected"), fault
                return 200, found, None
            except Refusal as refusal:
                return refusal.status, _status(refusal.status, str(refusal)), None

    def _route(self, method: str, path: str) -> tuple[str, Operation, dict[str, str]]:
        for name, operation in OPERATIONS.items():
            found = re.fullmatch(re.escape(self.prefix + PREFIX) + operation.pattern.pattern, path)
            if found and operation.method == method:
                return name, operation, {key: unquote(value) for key, value in found.groupdict().items()}
        raise Refusal(404, "Not Found")

    def _authenticate(self, headers: Any) -> str:
        if headers.get("Cookie") in self.cookies and self.cookies:
            return ""
        scheme, _, token = (headers.get("Authorization") or "").partition(" ")
        if self.login and not token:
            return "/dex/auth?client_id=kubeflow-oidc-authservice"
        if scheme != "Bearer" or token in self.expired or token != self.token:
            raise Refusal(401, "Unauthenticated: Request header error: there is no user identity header.")
        return ""

    def _answer(
        self, name: str, operation: Operation, path: dict[str, str], query: dict[str, str], headers: Any, body: bytes
    ) -> dict[str, Any]:
        for key in query:
            if key not in operation.query:
                self._violated(f"{name}: unknown parameter {key} in the query")
        document: Any = None
        if operation.body == "file":
            document = _multipart(headers, body)
        elif operation.body:
            document = self._parse(name, body)
            self._check(name, operation.body, document, "request")
        elif body.strip() not in (b"", b"{}"):
            self._violated(f"{name}: takes no body")
        handler: Callable[..., dict[str, Any]] = getattr(self, "_" + re.sub(r".*_", "", name).lower())
        arguments = {"path": path, "query": query, "body": document}
        answer = json.loads(json.dumps(handler(**arguments)))
        self._check(name, operation.answer, answer, "answer")
        return answer

    def _parse(self, name: str, body: bytes) -> Any:
        try:
            return json.loads(body)
        except ValueError:
            return self._violated(f"{name}: the body is no JSON")

    def _violated(self, message: str) -> Any:
        self.violations.append(message)
        raise Refusal(400, message)

    def _check(self, operation: str, model: str, document: Any, what: str) -> None:
        problem = model_problem(model, document) if model else ""
        problem = problem or swagger_problem(operation, document, what)
        if problem and what == "request":
            self._violated(f"{operation}: {problem}")
        assert not problem, f"this server's own answer to {operation}: {problem}"

    # Pipelines

    def _gethealthz(self, **_: Any) -> dict[str, Any]:
        return {"multi_user": self.multi_user, "pipeline_store": "database"}

    def _listpipelines(self, query: dict[str, str], **_: Any) -> dict[str, Any]:
        namespace = self._allowed(query.get("namespace", ""), shared=True)
        mine = [each for each in self.pipelines.values() if each.get("namespace", "") == namespace]
        return self._page("pipelines", mine, query, ("display_name", "name", "pipeline_id", "created_at"))

    def _createpipeline(self, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        return self._new_pipeline(body.get("name", "") or body.get("display_name", ""), body)

    def _new_pipeline(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        namespace = self._allowed(given.get("namespace", ""), shared=True)
        if not name:
            raise Refusal(400, "Invalid input error: name is required")
        if any((each["name"], each.get("namespace", "")) == (name, namespace) for each in self.pipelines.values()):
            raise Refusal(409, f"Already exist error: The name {name} already exist. Please specify a new name.")
        made = {
            "pipeline_id": str(uuid.uuid4()),
            "name": name,
            "display_name": given.get("display_name") or name,
            "created_at": self.now(),
            **({"namespace": namespace} if namespace else {}),
            **{key: given[key] for key in ("description", "tags") if given.get(key)},
        }
        self.pipelines[made["pipeline_id"]] = made
        return made

    def _getpipeline(self, path: dict[str, str], **_: Any) -> dict[str, Any]:
        return self._pipeline(path["pipeline_id"])

    def _pipeline(self, pipeline_id: str) -> dict[str, Any]:
        found = self.pipelines.get(pipeline_id)
        if not found:
            raise Refusal(404, f"ResourceNotFoundError: Pipeline {pipeline_id} not found")
        if found.get("namespace"):
            self._allowed(found["namespace"])
        return found

    def _uploadpipeline(self, query: dict[str, str], body: bytes, **_: Any) -> dict[str, Any]:
        spec = package(body)
        made = self._new_pipeline(query.get("name") or query.get("display_name") or "pipeline.yaml", query)
        self._new_version(made["pipeline_id"], made["name"], spec, query)  # the real server makes this version too
        return made

    def _uploadpipelineversion(self, query: dict[str, str], body: bytes, **_: Any) -> dict[str, Any]:
        if not query.get("pipelineid"):
            raise Refusal(400, "Failed to create a pipeline version")
        pipeline = self._pipeline(query["pipelineid"])
        name = query.get("name") or query.get("display_name") or "pipeline.yaml"
        return self._new_version(pipeline["pipeline_id"], name, package(body), query)

    def _new_version(self, pipeline_id: str, name: str, spec: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        if any((each["pipeline_id"], each["name"]) == (pipeline_id, name) for each in self.versions.values()):
            raise Refusal(409, "Failed to create a pipeline version")
        made = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": str(uuid.uuid4()),
            "name": name,
            "display_name": given.get("display_name") or name,
            "created_at": self.now(),
            "pipeline_spec": spec,
            **({"description": given["description"]} if given.get("description") else {}),
        }
        self.versions[made["pipeline_version_id"]] = made
        return made

    def _listpipelineversions(self, path: dict[str, str], query: dict[str, str], **_: Any) -> dict[str, Any]:
        pipeline_id = self._pipeline(path["pipeline_id"])["pipeline_id"]
        mine = [each for each in self.versions.values() if each["pipeline_id"] == pipeline_id]
        return self._page(
            "pipeline_versions", mine, query, ("display_name", "name", "pipeline_version_id", "created_at")
        )

    def _getpipelineversion(self, path: dict[str, str], **_: Any) -> dict[str, Any]:
        return self._version(path["pipeline_id"], path["pipeline_version_id"])

    def _version(self, pipeline_id: str, version_id: str) -> dict[str, Any]:
        found = self.versions.get(version_id)
        if not found or found["pipeline_id"] != self._pipeline(pipeline_id)["pipeline_id"]:
            raise Refusal(404, f"ResourceNotFoundError: PipelineVersion {version_id} not found")
        return found

    # Experiments

    def _listexperiments(self, query: dict[str, str], **_: Any) -> dict[str, Any]:
        namespace = self._allowed(query.get("namespace", ""))
        mine = [each for each in self.experiments.values() if each.get("namespace", "") == namespace]
        return self._page("experiments", mine, query, ("display_name", "name", "experiment_id", "created_at"))

    def _createexperiment(self, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        namespace, name = self._allowed(body.get("namespace", "")), body.get("display_name", "")
        if not name:
            raise Refusal(400, "Invalid input error: Experiment name is empty. Please specify a valid experiment name")
        if any((e["display_name"], e.get("namespace", "")) == (name, namespace) for e in self.experiments.values()):
            raise Refusal(409, f"Already exist error: The name {name} already exists. Please specify a new name.")
        made = {
            "experiment_id": str(uuid.uuid4()),
            "display_name": name,
            "created_at": self.now(),
            "storage_state": "AVAILABLE",
            **({"namespace": namespace} if namespace else {}),
            **({"description": body["description"]} if body.get("description") else {}),
        }
        self.experiments[made["experiment_id"]] = made
        return made

    def _experiment(self, experiment_id: str) -> dict[str, Any]:
        found = self.experiments.get(experiment_id)
        if not found:
            raise Refusal(404, f"ResourceNotFoundError: Experiment {experiment_id} not found")
        if self.multi_user:
            self._allowed(found["namespace"])
        return found

    # Runs

    def _createrun(self, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        experiment, given = self._job(body)
        made = {
            "run_id": str(uuid.uuid4()),
            "experiment_id": experiment["experiment_id"],
            "storage_state": "AVAILABLE",
            "created_at": self.now(),
            "scheduled_at": self._clock.isoformat().replace("+00:00", "Z"),
            "finished_at": "1970-01-01T00:00:00Z",  # the real server's "not yet"
            "state": "PENDING",
            "service_account": given.get("service_account") or "pipeline-runner",
            **{key: given[key] for key in ("display_name", "pipeline_version_reference", "runtime_config")},
            **({"plugins_input": given["plugins_input"]} if "plugins_input" in given else {}),
            **({"description": given["description"]} if given.get("description") else {}),
        }
        self.runs[made["run_id"]] = made
        self._namespace_of[made["run_id"]] = experiment.get("namespace", "")
        return made

    def _job(self, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Check what runs and recurring runs share."""
        if "plugins_input" in body and not self.plugins:
            raise Refusal(400, 'proto: (line 1:2): unknown field "plugins_input"')
        if not body.get("display_name"):
            raise Refusal(400, "Invalid input error: The run name is empty. Please specify a valid name")
        if not body.get("experiment_id"):
            raise Refusal(400, "Invalid input error: the experiment is missing")
        experiment = self._experiment(body["experiment_id"])
        reference = body.get("pipeline_version_reference") or {}
        if not reference.get("pipeline_id"):
            raise Refusal(400, "Invalid input error: Please specify a pipeline source (this server: by reference)")
        version = self._version(reference["pipeline_id"], reference.get("pipeline_version_id", ""))
        parameters = (body.get("runtime_config") or {}).get("parameters") or {}
        size = len(json.dumps(parameters, separators=(",", ":")).encode())
        if size > PARAMETER_BYTES:
            raise Refusal(400, f"The input parameter length exceed maximum size of {PARAMETER_BYTES}.")
        check_parameters(version["pipeline_spec"]["pipeline_spec"], parameters)
        numbers_are_doubles = json.loads(json.dumps(parameters), parse_int=float)
        return experiment, {**body, "runtime_config": {"parameters": numbers_are_doubles}}

    def _listruns(self, query: dict[str, str], **_: Any) -> dict[str, Any]:
        keys = ("display_name", "name", "run_id", "state", "created_at", "finished_at", "storage_state")
        return self._page("runs", self._in_scope(self.runs, query), query, keys)

    def _in_scope(self, kept: dict[str, dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        if query.get("experiment_id"):
            wanted = self._experiment(query["experiment_id"])["experiment_id"]
            return [each for each in kept.values() if each["experiment_id"] == wanted]
        namespace = self._allowed(query.get("namespace", ""))
        return [each for key, each in kept.items() if self._namespace_of[key] == namespace]

    def _getrun(self, path: dict[str, str], **_: Any) -> dict[str, Any]:
        run = self.runs.get(path["run_id"])
        if not run:
            raise Refusal(404, f"ResourceNotFoundError: Run {path['run_id']} not found")
        if self.multi_user:
            self._allowed(self._namespace_of[run["run_id"]])
        script = self._scripts.get(run["run_id"])
        if script and script.steps:
            run.update(script.steps.pop(0))
        return run

    # Recurring runs

    def _createrecurringrun(self, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        experiment, given = self._job(body)
        concurrency = int(given.get("max_concurrency") or 0)
        if not 1 <= concurrency <= 10:
            raise Refusal(
                400,
                f"The max concurrency of the recurring run is out of range. Support 1-10. Received {concurrency}.",
            )
        cron = ((given.get("trigger") or {}).get("cron_schedule") or {}).get("cron", "")
        if problem := robfig_problem(cron):
            raise Refusal(
                400,
                f"Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). Error: {problem}",
            )
        made = {
            "recurring_run_id": str(uuid.uuid4()),
            "experiment_id": experiment["experiment_id"],
            "created_at": self.now(),
            "max_concurrency": str(concurrency),
            "no_catchup": bool(given.get("no_catchup")),
            "status": "ENABLED" if given.get("mode") == "ENABLE" else "DISABLED",
            "mode": given.get("mode", "MODE_UNSPECIFIED"),
            "service_account": given.get("service_account") or "pipeline-runner",
            **({"namespace": experiment["namespace"]} if "namespace" in experiment else {}),
            **{key: given[key] for key in ("display_name", "pipeline_version_reference", "runtime_config", "trigger")},
        }
        self.recurring_runs[made["recurring_run_id"]] = made
        self._namespace_of[made["recurring_run_id"]] = experiment.get("namespace", "")
        return made

    def _listrecurringruns(self, query: dict[str, str], **_: Any) -> dict[str, Any]:
        keys = ("display_name", "name", "recurring_run_id", "created_at", "status")
        return self._page("recurringRuns", self._in_scope(self.recurring_runs, query), query, keys)

    def _recurring(self, path: dict[str, str]) -> dict[str, Any]:
        found = self.recurring_runs.get(path["recurring_run_id"])
        if not found:
            raise Refusal(404, f"ResourceNotFoundError: Job {path['recurring_run_id']} not found")
        return found

    def _getrecurringrun(self, path: dict[str, str], **_: Any) -> dict[str, Any]:
        return self._recurring(path)

    def _deleterecurringrun(self, path: dict[str, str], **_: Any) -> dict[str, Any]:
        del self.recurring_runs[self._recurring(path)["recurring_run_id"]]
        return {}

    def _enablerecurringrun(self, path: dict[str, str], **_: Any) -> dict[str, Any]:
        self._recurring(path).update(status="ENABLED", mode="ENABLE")
        return {}

    def _disablerecurringrun(self, path: dict[str, str], **_: Any) -> dict[str, Any]:
        self._recurring(path).update(status="DISABLED", mode="DISABLE")
        return {}

    # What lists and namespaces share

    def _allowed(self, namespace: str, shared: bool = False) -> str:
        if not self.multi_user:
            return ""  # as the real server: a namespace means nothing there
        if not namespace and not shared:
            raise Refusal(400, "Invalid input error: An experiment cannot have an empty namespace in multi-user mode")
        if namespace and namespace not in self.namespaces:
            raise Refusal(403, f"PermissionDenied: User 'submitter' is not authorized in namespace {namespace!r}")
        return namespace

    def _page(
        self, plural: str, items: list[dict[str, Any]], query: dict[str, str], keys: tuple[str, ...]
    ) -> dict[str, Any]:
        kept = [each for each in items if self._passes(each, query.get("filter", ""), keys)]
        order = query.get("sort_by", "")
        if order:
            key, _, direction = order.partition(" ")
            if key not in keys or direction not in ("", "asc", "desc"):
                raise Refusal(400, f"Invalid input error: Invalid sorting field: {order!r}")
            kept.sort(key=lambda each: str(each.get(key, "")), reverse=direction == "desc")
        size = int(query.get("page_size") or 0) or 20
        start = int(base64.b64decode(query["page_token"])) if query.get("page_token") else 0
        answer: dict[str, Any] = {plural: kept[start : start + size], "total_size": len(kept)}
        if start + size < len(kept):
            answer["next_page_token"] = base64.b64encode(str(start + size).encode()).decode()
        return {key: value for key, value in answer.items() if value}

    def _passes(self, item: dict[str, Any], text: str, keys: tuple[str, ...]) -> bool:
        if not text:
            return True
        try:
            predicates = json.loads(unquote(text))["predicates"]
        except (ValueError, KeyError, TypeError):
            return bool(self._violated(f"a malformed filter: {text}"))
        for predicate in predicates:
            value = predicate.get("stringValue", predicate.get("string_value"))
            operation = {1: "EQUALS", 9: "IS_SUBSTRING"}.get(predicate.get("operation"), predicate.get("operation"))
            if operation not in ("EQUALS", "IS_SUBSTRING") or predicate.get("key") not in keys or value is None:
                self._violated(f"a filter that this server does not know: {predicate}")
            key = {"name": "display_name"}.get(predicate["key"], predicate["key"]) if "name" not in item else ""
            found = item.get(key or predicate["key"])
            if found != value and not (operation == "IS_SUBSTRING" and value in str(found)):
                return False
        return True


# --- the nodes of a run ------------------------------------------------------------------------------------------------


def nodes(
    workflow: str, tasks: dict[str, str], errors: dict[str, str] | None = None, handler: str = "RUNNING"
) -> list[dict[str, Any]]:
    """Records of a run's nodes as KFP 2.17 lists them (tests/recorded): ``tasks`` maps paths below the exit handler to states.

    A path is ``preflight``, ``for-loop-2/0/retrieve-2`` (a task of the loop's first round), or one of these with
    ``-driver`` behind it, for a task whose driver ended so. ``handler`` is the state of `notify`, if it has begun; ``errors``
    maps the end of a node's path to what KFP says of it.
    """
    states: dict[str, str] = {}
    top = f"{workflow}(0).root(0).exit-handler-1(0)"
    states.update({workflow: "RUNNING", f"{workflow}(0)": "RUNNING"})
    for whole, state in (({"notify": handler} if handler else {}) | tasks).items():
        steps = re.sub(r"/(\d+)/", r"(0).iteration-iterations(\1:\1)(0).iteration-item(0).", whole)
        above = f"{workflow}(0).root(0).exit-handler-1.onExit(0)" if whole == "notify" else top
        path = f"{above}.{steps}"
        unit = path.removesuffix("-driver")
        end = {"FAILED": "FAILED", "RUNNING": "RUNNING", "PENDING": "RUNNING"}.get(state, "SUCCEEDED")
        parts = unit.split(".")
        for i in range(2, len(parts)):
            for graph in (".".join(parts[:i]), re.sub(r"\(\d+\)$", "", ".".join(parts[:i]))):
                if states.get(graph) != "FAILED":
                    states[graph] = end
                if rounds := re.fullmatch(r"(.*)\(\d+:\d+\)", graph):
                    states[rounds[1]] = states[graph]
                elif not graph.endswith((")", ".onExit")):
                    driver = f"{graph}(0).iteration-driver" if "for-loop" in graph[-12:] else f"{graph}-driver"
                    states[driver] = states[f"{driver}(0)"] = "SUCCEEDED"
        driven = state if whole.endswith("-driver") else "SUCCEEDED"
        states.update({f"{unit}-driver": driven, f"{unit}-driver(0)": driven})
        if not whole.endswith("-driver"):
            states.update({unit: state, f"{unit}(0)": state, f"{unit}(0).executor": state})
            states[f"{unit}(0).executor(0)"] = state
    return [_node(workflow, path, state, states, (errors or {})) for path, state in states.items()]


def _node(workflow: str, path: str, state: str, states: dict[str, str], errors: dict[str, str]) -> dict[str, Any]:
    found = re.match(r"^(?:(.*\(\d+\))\.)?(.*)$", path)
    assert found
    name = found[2] if found[1] else path
    below = [
        each for each in states if re.fullmatch(re.escape(path) + r"(\(\d+(:\d+)?\)|(?<=\))\.[^.(]+(\.onExit)?)", each)
    ]
    children = [{"pod_name": node_id(workflow, each)} for each in below]
    said = next((text for key, text in errors.items() if path.endswith(key)), "")
    return {
        "display_name": name,
        **({"state": state} if state else {}),
        **({"child_tasks": children} if children else {}),
        **({"error": {"code": 2, "message": said}} if said else {}),
    }


def node_id(workflow: str, path: str) -> str:
    """The id that Argo gives to the node at ``path``."""
    value = 2166136261
    for byte in path.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return f"{workflow}-{value}"


# --- the contract -----------------------------------------------------------------------------------------------------


def model_problem(kind: str, value: Any, where: str = "") -> str:
    """What makes ``value`` no ``kind`` of `kfp-server-api`, or an empty string."""
    if value is None:
        return f"{where or kind} is null"
    if found := re.fullmatch(r"(?:list\[(.*)\]|dict\(str, (.*)\))", kind):
        items, values = found.groups()
        if not isinstance(value, list if items else dict):
            return f"{where}: not a {'list' if items else 'mapping'}: {value!r}"
        members = enumerate(value) if items else value.items()
        return next(filter(None, (model_problem(items or values, each, f"{where}[{i}]") for i, each in members)), "")
    if kind == "object":
        return ""
    if kind in ("str", "datetime"):
        # int64 travels as a string, and gateways take a number for it.
        return (
            "" if isinstance(value, str) or (type(value) is int and kind == "str") else f"{where}: no {kind}: {value!r}"
        )
    if kind in ("int", "bool", "float"):
        return "" if type(value).__name__ == kind else f"{where}: no {kind}: {value!r}"
    model = getattr(kfp_server_api, kind)
    if hasattr(model, "allowable_values"):
        return "" if value in model.allowable_values else f"{where}: {value!r} is not among {model.allowable_values}"
    if not isinstance(value, dict):
        return f"{where or kind}: not a {kind}: {value!r}"
    types = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
    for key, each in value.items():
        if key not in types:
            return f"{where or kind}: unknown field {key!r}"
        if problem := model_problem(types[key], each, f"{where}.{key}" if where else key):
            return problem
    return ""


@cache
def swagger() -> dict[str, Any]:
    """The published OpenAPI document with unknown fields forbidden, or nothing where it is absent."""
    if not SWAGGER.exists():
        return {}
    document: dict[str, Any] = json.loads(SWAGGER.read_text())
    for definition in document["definitions"].values():
        if "properties" in definition:
            definition["additionalProperties"] = False
    _allow_numbers(document)
    return document


def _allow_numbers(node: Any) -> None:
    """int64 is declared as a string; KFP's client sends, and the gateway accepts, a number."""
    if isinstance(node, dict):
        if node.get("format") == "int64" and node.get("type") == "string":
            node["type"] = ["string", "integer"]
        for each in node.values():
            _allow_numbers(each)
    elif isinstance(node, list):
        for each in node:
            _allow_numbers(each)


@cache
def _swagger_operations() -> dict[str, dict[str, Any]]:
    calls = swagger().get("paths", {}).values()
    return {call["operationId"]: call for each in calls for call in each.values()}


def swagger_problem(operation: str, document: Any, what: str) -> str:
    """What the OpenAPI document forbids in a request's body or in an answer."""
    if not swagger():
        return ""
    import jsonschema

    call = _swagger_operations()[operation]
    schemas = [each["schema"] for each in call["parameters"] if each["in"] == "body"] if what == "request" else []
    schema = call["responses"]["200"]["schema"] if what == "answer" else schemas[0] if schemas else None
    if schema is None:
        return ""
    validator = jsonschema.Draft4Validator({**schema, "definitions": swagger()["definitions"]})
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"[:500] if error else ""


def package(content: bytes) -> dict[str, Any]:
    """The pipeline in an uploaded YAML, as the server keeps it; refused when KFP's protobufs do not know a field of it."""
    try:
        documents = list(yaml.load_all(content, yaml.CSafeLoader))
        spec, platform = documents[0], documents[1] if len(documents) > 1 else {}
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
        executors = (platform.get("platforms") or {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors")
        for each in (executors or {}).values():
            json_format.ParseDict(each, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    except (yaml.YAMLError, json_format.ParseError, AttributeError, IndexError) as error:
        raise Refusal(400, f"Failed to read a pipeline spec file: {error}") from error
    if not spec.get("pipelineInfo", {}).get("name"):
        raise Refusal(400, "Failed to read a pipeline spec file: the name is missing")
    return {"pipeline_spec": spec, "platform_spec": platform}


#: KFP's parameter types, and the Python types of their JSON values.
_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


def check_parameters(spec: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse what the real server refuses: unknown, missing and wrongly typed parameters."""
    known = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    for name, value in given.items():
        if name not in known:
            raise Refusal(400, f"Invalid input error: Unknown input parameter: {name}")
        kind = known[name]["parameterType"]
        if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
            raise Refusal(400, f"Invalid input error: input parameter {name} requires type {kind}, got {value!r}")
    for name, definition in known.items():
        if name not in given and not definition.get("isOptional") and "defaultValue" not in definition:
            raise Refusal(
                400, f"Invalid input error: parameter {name} is not optional, yet has neither value nor default"
            )


_BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_NAMES: tuple[dict[str, str], ...] = (
    *({},) * 4,
    {name.lower(): str(i) for i, name in enumerate(calendar.month_abbr) if name},
    dict(zip(("sun", "mon", "tue", "wed", "thu", "fri", "sat"), "0123456", strict=True)),
)


def robfig_problem(cron: str) -> str:
    """Why robfig/cron v1 refuses an expression. Five fields are accepted, as there: the first is seconds."""
    if cron.startswith("@"):
        return "" if re.fullmatch(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly|every \S+)", cron) else cron
    fields = cron.split()
    if len(fields) not in (5, 6):
        return f"Expected 5 to 6 fields, found {len(fields)}: {cron}"
    for text, (least, most), names in zip(fields, _BOUNDS, _NAMES, strict=False):
        for part in text.split(","):
            value, slash, step = part.partition("/")
            low, hyphen, high = (names.get(each.lower(), each) for each in value.partition("-"))
            if slash and not (step.isdigit() and int(step)):
                return f"Step of range should be a positive number: {part}"
            if low in ("*", "?") and not high:
                continue
            if not low.isdigit() or (hyphen and not high.isdigit()):
                return f"Failed to parse int from {part}"
            if not least <= int(low) <= int(high or low) <= most:
                return f"End of range above maximum, or beginning below minimum: {part}"
    return ""


def _multipart(headers: Any, body: bytes) -> bytes:
    """The field ``uploadfile`` of a form."""
    head = f"Content-Type: {headers.get('Content-Type', '')}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    for part in message.iter_parts() if message.is_multipart() else ():
        if part.get_param("name", header="content-disposition") == "uploadfile":
            content: bytes = part.get_payload(decode=True)
            return content
    raise Refusal(400, "Failed to read pipeline from file")


def _status(code: int, message: str) -> dict[str, Any]:
    return {"code": {400: 3, 401: 16, 403: 7, 404: 5, 409: 6}.get(code, 13), "message": message, "details": []}


def _handler(api: KfpApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        wbufsize = -1  # one packet for each answer: two cost 40 ms (delayed acknowledgement)
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer, fault = api.answer(self.command, self.path, self.headers, body)
            if fault and not fault.status:
                if fault.silent:
                    api._released.wait()
                self.close_connection = True
                self.connection.close()
                return
            if isinstance(answer, str):
                page, more = (answer, {}) if status == 200 else ("<html>Log in</html>", {"Location": answer})
                self._send(status, page.encode(), "text/html", more)
            else:
                self._send(status, json.dumps(answer).encode(), "application/json", {})

        do_GET = do_POST = do_DELETE = do_PATCH = _handle  # noqa: N815

        def _send(self, status: int, data: bytes, kind: str, more: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
