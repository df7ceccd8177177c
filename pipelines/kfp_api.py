"""The Kubeflow Pipelines API as the commands use it: where it is, who asks, and calls that may safely be repeated.

The generated client below `kfp.Client` is used directly: `kfp.Client` writes to the home folder, prints, asks for a
pipeline by name without its namespace, and waits for minutes where nobody answers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp_server_api
import urllib3

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.redaction import credentials_in, line, refuse_credentials
from pipelines import kubeconfig

#: Seconds to connect, and to wait for an answer.
TIMEOUT = (4, 20)
#: Seconds before a question is asked again that was answered with an error of the server.
PAUSES = (0.5, 1.5)
#: Seconds before each look for what a create call without an answer may have created.
LOOKS = (0.5, 1.0, 2.0)
SERVICE_ACCOUNT = "inranker-runner"
#: Where KFP's own client looks for a pod's projected token.
TOKEN_PATH = "/var/run/secrets/kubeflow/pipelines/token"


class Conflict(Exception):
    """409: what was to be created is there already."""


class Unanswered(Exception):
    """The server failed or fell silent; what it was asked to do may be done or not."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which API, and where in it."""
    parser.add_argument("--host", default="", help="address of the API (default: KF_PIPELINES_ENDPOINT)")
    parser.add_argument("--namespace", default="inranker", help="namespace of the runs")
    parser.add_argument("--experiment", default="inranker", help="experiment of the runs")


class Api:
    """One KFP API, asked for one namespace. Every method raises :class:`UserError` with what to do."""

    def __init__(self, host: str, namespace: str) -> None:
        """Find the API; nothing is asked yet.

        ``host``, else ``KF_PIPELINES_ENDPOINT``, else KFP's service (inside a cluster), else a proxy through the
        kubeconfig. Who asks: ``KF_PIPELINES_TOKEN`` (renewed where it can be), ``KF_PIPELINES_TOKEN_FILE``, a cookie of
        Dex or oauth2-proxy in ``KF_PIPELINES_COOKIES``, or a service account's projected token
        (``KF_PIPELINES_SA_TOKEN_PATH``).
        """
        self.namespace = namespace
        configuration = kfp_server_api.Configuration()
        # A redirect is a login page, and a silent server is not asked twice without saying so.
        configuration.retries = urllib3.Retry(
            total=None, connect=0, read=0, redirect=0, status=0, other=0, raise_on_redirect=False
        )
        configuration.ssl_ca_cert = variables.certificate_file()
        found = host or variables.kfp_endpoint()
        if found:
            configuration.host = _address(found)
        elif variables.in_cluster():
            configuration.host = f"http://ml-pipeline.{variables.kfp_namespace()}.svc.cluster.local:8888"
        else:
            kubeconfig.through_proxy(configuration)
        self.host: str = configuration.host
        self._named = bool(found)
        if found or variables.in_cluster():
            _identify(configuration)
        cookie = _header("KF_PIPELINES_COOKIES", variables.kfp_cookies())
        self._client = kfp_server_api.ApiClient(configuration, cookie=cookie or None)
        self._pipelines = kfp_server_api.PipelineServiceApi(self._client)
        self._uploads = kfp_server_api.PipelineUploadServiceApi(self._client)
        self._experiments = kfp_server_api.ExperimentServiceApi(self._client)
        self._runs = kfp_server_api.RunServiceApi(self._client)
        self._recurring = kfp_server_api.RecurringRunServiceApi(self._client)
        self._health = kfp_server_api.HealthzServiceApi(self._client)

    @cached_property
    def multi_user(self) -> bool:
        """Whether namespaces mean something to this API."""
        return bool(self._ask(self._health.healthz_service_get_healthz).multi_user)

    @property
    def pod_namespace(self) -> str:
        """Where the pods of runs are."""
        return self.namespace if self.multi_user else variables.kfp_namespace()

    @cached_property
    def ui(self) -> str:
        """Address of the UI: ``KF_PIPELINES_UI_ENDPOINT``, or that of the API where a browser gets a page there; else empty."""
        named = variables.kfp_ui()
        return named or (self.host if self._named and _serves_pages(self.host) else "")

    def link(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{self.ui or 'http://localhost:8080'}/#/runs/details/{run_id}"

    @property
    def ui_hint(self) -> str:
        """What makes :meth:`link` work where no address of the UI is known; else empty."""
        forward = f"kubectl port-forward -n {variables.kfp_namespace()} svc/ml-pipeline-ui 8080:80"
        return "" if self.ui else f"(links: {forward}; or set KF_PIPELINES_UI_ENDPOINT)"

    # Get or create

    def pipeline(self, name: str, description: str) -> str:
        """Return the id of the pipeline ``name``, created if missing."""

        def find() -> Any:
            return _only(self._all(self._pipelines.pipeline_service_list_pipelines, "pipelines", name, **self._scope()))

        def make() -> Any:
            body = kfp_server_api.V2beta1Pipeline(
                name=name, display_name=name, description=description, **self._scope()
            )
            return self._send(self._pipelines.pipeline_service_create_pipeline, body)

        return str((find() or self._create(f"pipeline {name}", find, make)).pipeline_id)

    def version(self, pipeline_id: str, name: str, package: Path) -> tuple[str, bool]:
        """Return the id of the version ``name``, and whether ``package`` had to be uploaded for it."""

        def find() -> Any:
            versions = self._pipelines.pipeline_service_list_pipeline_versions
            return _only(self._all(versions, "pipeline_versions", name, pipeline_id))

        def make() -> Any:
            return self._send(self._uploads.upload_pipeline_version, str(package), name=name, pipelineid=pipeline_id)

        found = find()
        made = found or self._create(f"version {name}", find, make)
        return str(made.pipeline_version_id), not found

    def experiment(self, name: str) -> str:
        """Return the id of the experiment ``name``, created if missing."""

        def make() -> Any:
            body = kfp_server_api.V2beta1Experiment(display_name=name, **self._scope())
            return self._send(self._experiments.experiment_service_create_experiment, body)

        found = self._experiment(name) or self._create(f"experiment {name}", lambda: self._experiment(name), make)
        return str(found.experiment_id)

    def find_experiment(self, name: str) -> str:
        """Return the id of the experiment ``name``; empty if there is none."""
        found = self._experiment(name)
        return str(found.experiment_id) if found else ""

    def _experiment(self, name: str) -> Any:
        listed = self._experiments.experiment_service_list_experiments
        return _only(self._all(listed, "experiments", name, **self._scope()))

    # Runs

    def runs(self, experiment_id: str, name: str = "", most: int = 1000) -> list[Any]:
        """Return runs of an experiment, newest first."""
        runs = self._all(self._runs.run_service_list_runs, "runs", name, most=most, experiment_id=experiment_id)
        return list(runs)

    def runs_named(self, name: str) -> list[Any]:
        """Return runs in the namespace whose name is this one or begins with it and a hyphen, newest first."""
        return list(self._all(self._runs.run_service_list_runs, "runs", name, beginning=True, **self._scope()))

    def runs_like(self, experiment_id: str, name: str) -> list[Any]:
        """Return the same in one experiment."""
        listed = self._runs.run_service_list_runs
        return list(self._all(listed, "runs", name, beginning=True, experiment_id=experiment_id))

    def run(self, run_id: str) -> Any:
        """Return a run with its tasks."""
        return self._ask(self._runs.run_service_get_run, run_id)

    def create_run(
        self, experiment_id: str, name: str, pipeline: tuple[str, str], arguments: dict[str, Any], description: str = ""
    ) -> Any:
        """Start a run of a pipeline version (its two ids); one run, even where the first answer gets lost."""
        known = {run.run_id for run in self.runs(experiment_id, name)}

        def find() -> Any:
            return next((run for run in self.runs(experiment_id, name) if run.run_id not in known), None)

        def make(**plugins: Any) -> Any:
            body = kfp_server_api.V2beta1Run(
                display_name=name,
                description=description or None,
                **_job(experiment_id, pipeline, arguments),
                **plugins,
            )
            return self._send(self._runs.run_service_create_run, body)

        return self._create(f"run {name}", find, _with_plugins(make))

    # Recurring runs

    def schedules(self, experiment_id: str, name: str) -> list[Any]:
        """Return recurring runs of this name, oldest first."""
        listed = self._recurring.recurring_run_service_list_recurring_runs
        every = self._all(listed, "recurring_runs", "", experiment_id=experiment_id)
        return sorted((each for each in every if each.display_name == name), key=lambda each: each.created_at)

    def create_schedule(
        self, experiment_id: str, name: str, pipeline: tuple[str, str], arguments: dict[str, Any], cron: str
    ) -> Any:
        """Start a recurring run: one at a time, missed ones are not made up for."""
        known = {each.recurring_run_id for each in self.schedules(experiment_id, name)}

        def find() -> Any:
            found = self.schedules(experiment_id, name)
            return next((each for each in found if each.recurring_run_id not in known), None)

        def make(**plugins: Any) -> Any:
            body = kfp_server_api.V2beta1RecurringRun(
                display_name=name,
                mode=kfp_server_api.RecurringRunMode.ENABLE,
                trigger=kfp_server_api.V2beta1Trigger(cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=cron)),
                max_concurrency="1",
                no_catchup=True,
                **_job(experiment_id, pipeline, arguments),
                **plugins,
            )
            return self._send(self._recurring.recurring_run_service_create_recurring_run, body)

        return self._create(f"schedule {name}", find, _with_plugins(make))

    def has_schedule(self, recurring_run_id: str) -> bool:
        """Return whether a recurring run is there."""
        get = self._recurring.recurring_run_service_get_recurring_run
        return self._ask(get, recurring_run_id, missing_is_fine=True) is not None

    def enable_schedule(self, recurring_run_id: str) -> None:
        """Enable a recurring run; an enabled one stays so."""
        self._ask(self._recurring.recurring_run_service_enable_recurring_run, recurring_run_id)

    def disable_schedule(self, recurring_run_id: str) -> None:
        """Let a recurring run start nothing more; what it has started goes on."""
        self._ask(self._recurring.recurring_run_service_disable_recurring_run, recurring_run_id)

    def delete_schedule(self, recurring_run_id: str) -> None:
        """Delete a recurring run, and with it the workflows of its runs; one that is gone already is fine."""
        try:
            self._ask(
                self._recurring.recurring_run_service_delete_recurring_run, recurring_run_id, missing_is_fine=True
            )
        except Unanswered as error:
            raise UserError(f"the schedule {recurring_run_id} is not deleted: {error}", code="kfp-refused") from error

    # Calls

    def _scope(self) -> dict[str, Any]:
        return {"namespace": self.namespace} if self.multi_user else {}

    def _all(
        self,
        function: Callable[..., Any],
        key: str,
        name: str,
        *ids: str,
        most: int = 0,
        beginning: bool = False,
        **where: Any,
    ) -> Iterator[Any]:
        """Yield every item of a list over all its pages (or the first ``most``), newest first; those of ``name`` if given, or
        whose name's ``beginning`` it is."""
        if name:
            operation = "IS_SUBSTRING" if beginning else "EQUALS"
            predicate = {"operation": operation, "key": "display_name", "string_value": name}
            where = {**where, "filter": json.dumps({"predicates": [predicate]})}
        token, seen = "", 0
        while True:
            page = self._ask(function, *ids, page_size=100, page_token=token, sort_by="created_at desc", **where)
            for item in getattr(page, key) or []:
                if not name or item.display_name == name or (beginning and item.display_name.startswith(f"{name}-")):
                    yield item
                    seen += 1
                if most and seen == most:
                    return
            token = page.next_page_token
            if not token:
                return

    def _ask(self, function: Callable[..., Any], *args: Any, missing_is_fine: bool = False, **where: Any) -> Any:
        """A call that changes nothing when it is repeated."""
        for pause in (*PAUSES, None):
            try:
                return self._send(function, *args, **where)
            except Unanswered as error:
                if pause is None:
                    raise UserError(
                        f"KF_PIPELINES_ENDPOINT: {self.host}: {error}; try again in a minute", code="server-no-answer"
                    ) from error
                time.sleep(pause)
            except _Missing:
                if missing_is_fine:
                    return None
                raise
        raise AssertionError("unreachable")

    def _create(self, what: str, find: Callable[[], Any], make: Callable[[], Any]) -> Any:
        """Create something once: before a call is repeated, what the last one may have done is looked for."""
        reason = ""
        for _ in range(2):
            try:
                return make()
            except (Conflict, Unanswered) as error:
                reason = str(error)
            for pause in LOOKS:
                if found := find():
                    return found
                time.sleep(pause)
        raise UserError(f"{what} cannot be created: {reason}; try again in a minute", code="kfp-refused")

    def _send(self, function: Callable[..., Any], *args: Any, **where: Any) -> Any:
        try:
            answer = function(*args, _request_timeout=TIMEOUT, **where)
        except kfp_server_api.ApiException as error:
            raise self._refused(error) from error
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        kind = self._client.last_response.getheader("content-type") or ""
        if "json" not in kind:
            raise UserError(
                f"KF_PIPELINES_ENDPOINT: {self.host} answers with a page ({kind}), not as KFP's API; {_LOGIN}",
                code="kfp-login",
            )
        return answer

    def _unreachable(self, error: Exception) -> Exception:
        cause = getattr(error, "reason", None) or error
        never_connected = (
            urllib3.exceptions.NewConnectionError,
            urllib3.exceptions.ConnectTimeoutError,
            urllib3.exceptions.SSLError,
        )
        if isinstance(cause, never_connected):
            return UserError(
                f"KF_PIPELINES_ENDPOINT: {self.host}: nobody answers ({_short(cause)}); check the address, or: "
                f"kubectl port-forward -n {variables.kfp_namespace()} svc/ml-pipeline 8888:8888",
                code="server-no-answer",
            )
        return Unanswered(f"no answer ({_short(cause)})")

    def _refused(self, error: Any) -> Exception:
        status, said = error.status, _message(error)
        if status == 0:
            return UserError(
                f"KF_PIPELINES_ENDPOINT: {self.host}: TLS: {said}; a CA of yours goes into SSL_CERT_FILE",
                code="kfp-tls",
            )
        if status == 409:
            return Conflict(said)
        if status >= 500 or status in (408, 429):
            return Unanswered(f"the server answers {status}: {said}")
        if status == 401 or 300 <= status < 400:
            return UserError(
                f"KF_PIPELINES_ENDPOINT: {self.host} does not know who asks ({status}); {_LOGIN}", code="kfp-login"
            )
        if status == 403:
            return UserError(
                f"NAMESPACE={self.namespace}: {self.host} refuses it ({said}); is the name right, and is this account "
                "bound to inranker-submitter there?",
                code="kfp-namespace",
            )
        if status == 404 and said.lower() in ("", "not found", "404 page not found"):  # of the path, not of a thing
            return UserError(
                f"KF_PIPELINES_ENDPOINT: {self.host}: no KFP API at this address (404); Kubeflow's ends in /pipeline",
                code="kfp-address",
            )
        return _Missing(said) if status == 404 else UserError(f"KFP refuses it ({status}): {said}", code="kfp-refused")


class _Missing(UserError):
    """404 for one thing."""

    code = "kfp-refused"


_LOGIN = (
    "the token is missing, expired or not for this API: renew it (kubectl create token inranker-submitter "
    "--audience pipelines.kubeflow.org) into KF_PIPELINES_TOKEN or KF_PIPELINES_TOKEN_FILE, or log in with the browser "
    "and put its session cookie (NAME=VALUE) into KF_PIPELINES_COOKIES"
)


def _with_plugins(make: Callable[..., Any]) -> Callable[[], Any]:
    """Return ``make`` with the experiment for KFP's MLflow plugin; without it where the server knows of no plugins."""

    def made() -> Any:
        try:
            return make(plugins_input={"mlflow": {"experiment_name": variables.experiment()}})
        except UserError as error:
            if "plugin" not in str(error).lower():
                raise
            return make()

    return made


def _serves_pages(address: str) -> bool:
    """Return whether a browser gets a page at an address, or is sent to where it logs in: KFP's API alone has none."""
    pool = urllib3.PoolManager(ca_certs=variables.certificate_file(), retries=False, timeout=TIMEOUT[0])
    try:
        answer = pool.request("GET", f"{address}/", redirect=False)
    except urllib3.exceptions.HTTPError:
        return False
    return 300 <= answer.status < 400 or "html" in (answer.headers.get("content-type") or "")


def _address(host: str) -> str:
    """Return ``host`` with a scheme and no trailing slash."""
    address = (host if "://" in host else f"https://{host}").strip().rstrip("/")
    if credentials_in(address):
        raise UserError(
            "KF_PIPELINES_ENDPOINT holds a password or a token, which would be in every link: give it without, and who asks in "
            "KF_PIPELINES_TOKEN or KF_PIPELINES_COOKIES",
            code="secret-shown",
        )
    try:
        parts = urlsplit(address)
        usable = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and address.isprintable()
        )
        usable = usable and " " not in address
    except ValueError:  # a port or a bracket that is none
        usable = False
    if not usable:
        raise UserError(
            f"KF_PIPELINES_ENDPOINT: {host}: not an address of the form https://HOST[/pipeline]", code="address-form"
        )
    return address


def _identify(configuration: Any) -> None:
    """Give every request the caller's token, which lasts an hour where a run may last days.

    Files are read anew each time, because they are renewed under us. A token of the environment that has run out is
    renewed through the kubeconfig, where it is a service account's.
    """
    token = variables.kfp_token()
    named = variables.kfp_token_file()
    if not token and named and not Path(named).is_file():
        raise UserError(f"KF_PIPELINES_TOKEN_FILE, KF_PIPELINES_SA_TOKEN_PATH: {named}: no such file", code="not-found")
    path = Path(named or TOKEN_PATH)
    if not token and not path.is_file():
        return

    def refresh(asked: Any) -> None:
        nonlocal token
        if token:
            token = kubeconfig.renewed(token)
            asked.api_key["authorization"] = _header("KF_PIPELINES_TOKEN", token)
        else:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            asked.api_key["authorization"] = _header(f"KF_PIPELINES_TOKEN_FILE: {path}", text)

    configuration.api_key_prefix["authorization"] = "Bearer"
    configuration.refresh_api_key_hook = refresh
    refresh(configuration)


def _header(name: str, value: str) -> str:
    """Return ``value`` as a header can hold it; :class:`UserError` that does not repeat it where none can."""
    value = value.strip()
    if not value.isprintable():
        raise UserError(
            f"{name}: holds a line break or another sign that is none of a token's; give its one line alone",
            code="secret-form",
        )
    return value


def _job(experiment_id: str, pipeline: tuple[str, str], arguments: dict[str, Any]) -> dict[str, Any]:
    pipeline_id, version_id = pipeline
    refuse_credentials(arguments, "")
    return {
        "experiment_id": experiment_id,
        "pipeline_version_reference": kfp_server_api.V2beta1PipelineVersionReference(
            pipeline_id=pipeline_id, pipeline_version_id=version_id
        ),
        "runtime_config": kfp_server_api.V2beta1RuntimeConfig(parameters=arguments),
        "service_account": SERVICE_ACCOUNT,
    }


def _only(found: Iterator[Any]) -> Any:
    return next(found, None)


def _message(error: Any) -> str:
    """Return the server's words in one short line."""
    try:
        body = json.loads(error.body or "{}")
        said = body.get("message") or body.get("error_message") or body.get("error") or error.reason
    except (ValueError, AttributeError):
        said = error.reason if "<" in str(error.body) else error.body
    return line(said or error.reason)


def _short(error: Any) -> str:
    """Return the last, telling part of urllib3's message."""
    return str(error).rpartition(": ")[2][:200] or type(error).__name__
