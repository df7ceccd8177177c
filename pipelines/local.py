"""The compiled pipeline on this machine: KFP's local runner, with each task a process or a container of its own image."""

from __future__ import annotations

import builtins
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from inranker_flow.commands import console, folder
from inranker_flow.commands.command import TERMINATED
from inranker_flow.commands.processes import Processes
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.settings.profile import Profile
from pipelines import submission
from pipelines.compile import compile_pipeline
from pipelines.placement import UID, content_tag

#: Variables that a container gets where they are set here: what its pod could get, and what a local run tells its stages.
_PASSED_ON = re.compile(
    r"(AWS|MLFLOW|HF|KF_PIPELINES|OPENAI)_|INRANKER_(STORE|WEBHOOK_URL|ARTIFACTS|EVENTS|PARENT_RUN_ID|SCRATCH)$"
    r"|OMP_NUM_THREADS$|(?i:https?|no|all)_proxy$"
)
#: These name files of this machine.
_OF_THIS_MACHINE = re.compile(r"_(FILE|PATH|BUNDLE|HOME|CACHE|PROFILE)$")


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of ``environment`` that a container gets."""
    return {
        name: value
        for name, value in environment.items()
        if _PASSED_ON.match(name) and not (name.startswith(("AWS", "MLFLOW", "HF")) and _OF_THIS_MACHINE.search(name))
    }


#: Label of the containers of a run.
LABEL = "inranker-flow.run"


def code_version() -> str:
    """Return the tag of the images that the task's containers would run."""
    return content_tag()


def prepare(pipeline: str, profile: Profile, hold: folder.Run, runner: str) -> tuple[Path, str]:
    """Compile ``pipeline`` into the run's folder; returns the file, and ``runner``: "process" (this environment) or
    "docker" (the images that `make images` built)."""
    # One machine has one pod for everything; and KFP's local runner gives a loop's item to the loop around it, too.
    cluster = replace(profile.cluster, workers=1, nodes=1)
    return compile_pipeline(pipeline, hold.folder / f"{pipeline}.yaml", cluster), runner


def execute(
    prepared: tuple[Path, str],
    pipeline: str,
    profile: Profile,
    keys: dict[str, str],
    hold: folder.Run,
    log: Path,
    verbose: bool,
) -> None:
    """Run the compiled file. Raises RuntimeError when a task fails, after the exit handler, and :class:`UserError` where
    docker does not answer."""
    from kfp import components, local

    yaml, runner = prepared
    root = hold.folder / "artifacts"
    # The runner warns about each image that is not called "python" and each setting that only a cluster knows.
    warnings.filterwarnings("ignore", module=r"kfp\.")
    loaded = components.load_component_from_file(str(yaml))
    chosen = local.SubprocessRunner(use_venv=False) if runner == "process" else _containers(root, hold)
    local.init(chosen, pipeline_root=str(root), enable_caching=True)
    _try_once(loaded)
    plain_print = builtins.print  # KFP's runner replaces it to indent; with parallel tasks it does not put it back
    try:
        with (
            open(log, "w", encoding="utf-8", errors="backslashreplace", buffering=1) as file,
            redirect_stdout(console.Tee(sys.stdout, file, verbose)),
            _named(log.stem),
            _tasks(hold, runner),
        ):
            loaded(**submission.arguments(pipeline, profile))
    finally:
        builtins.print = plain_print


def _try_once(loaded: Any) -> None:
    """Retries wait for minutes between attempts; here a person waits, and the same command continues anyway."""
    spec = loaded.component_spec.implementation.graph
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            task.ClearField("retry_policy")


@contextmanager
def _named(name: str) -> Iterator[None]:
    """KFP's runner calls the run within this block ``name``, as MLflow and the log do, and not by a time of its own."""
    from kfp.local import executor_input_utils

    plain = executor_input_utils.get_local_pipeline_resource_name
    executor_input_utils.get_local_pipeline_resource_name = lambda _pipeline: name
    try:
        yield
    finally:
        executor_input_utils.get_local_pipeline_resource_name = plain


@contextmanager
def _tasks(run: folder.Run, runner: str) -> Iterator[None]:
    """KFP's runner starts its tasks through this block: they hold the folder's lock, and end with the run.

    What KFP itself starts knows nothing of either: its threads wait for their tasks, whatever happens to the run.
    """
    from kfp.local import docker_task_handler, subprocess_task_handler

    processes = Processes(run, lambda: remove_containers(run.file.name) if runner == "docker" else 0)

    def process(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        _, _, module, *arguments = full_command  # python -m components ...
        return processes.start(module, arguments, {"_KFP_RUNTIME": "true", **(env_vars or {})})

    plain_container = docker_task_handler.run_docker_container

    def container(**options: Any) -> int:
        return TERMINATED if processes.over else int(plain_container(**options))

    plain_process = subprocess_task_handler.run_local_subprocess
    subprocess_task_handler.run_local_subprocess = process
    docker_task_handler.run_docker_container = container
    try:
        with processes.ending():
            yield
    finally:
        subprocess_task_handler.run_local_subprocess = plain_process
        docker_task_handler.run_docker_container = plain_container


def remove_containers(name: str) -> int:
    """Remove the containers of the run with the file ``name``, running or not; returns how many there were."""
    import docker

    client = docker.from_env()
    found = client.containers.list(all=True, filters={"label": f"{LABEL}={name}"})
    for each in found:
        try:
            each.remove(force=True)
        except docker.errors.APIError:  # it is being removed already: KFP asks for that
            continue
    client.close()
    return len(found)


def _containers(root: Path, run: folder.Run) -> Any:
    """KFP's docker runner: the images' own user, this machine's network or that of ``INRANKER_DOCKER_NETWORK``."""
    import docker
    from kfp import local

    try:
        docker.from_env().ping()
    except Exception as error:  # docker's errors have no common base
        raise UserError(
            f"RUNNER=docker: no docker engine answers ({error}); start it, or use RUNNER=process", code="docker-missing"
        ) from error
    uri = variables.tracking_uri()
    if not uri.startswith("http"):
        raise UserError(
            f"RUNNER=docker: containers reach no SQLite file ({uri}); set MLFLOW_TRACKING_URI to a server",
            code="registry-address",
        )
    user, group = os.getuid(), os.getgid()
    if user == 0:
        # The images' user is not ours: what KFP makes here must be writable for it.
        user = group = UID
        os.umask(0)
        root.chmod(0o777)
    return local.DockerRunner(
        user=f"{user}:{group}",
        network_mode=variables.docker_network(),
        labels={LABEL: run.file.name},
        environment=passed_on(variables.everything()),
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )
