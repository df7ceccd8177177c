"""The compiled pipeline on this machine: KFP's local runner, with each task a process or a container of its own image."""

from __future__ import annotations

import builtins
import os
import re
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from inranker_flow.errors import UserError
from pipelines import console
from pipelines.placement import UID

#: Variables that a container gets where they are set here: what its pod could get, and what a local run tells its stages.
_PASSED_ON = re.compile(
    r"(AWS|MLFLOW|HF|KF_PIPELINES|OPENAI)_|INRANKER_(STORE|WEBHOOK_URL|ARTIFACTS|EVENTS|PARENT_RUN_ID|SCRATCH)$"
    r"|OMP_NUM_THREADS$|(?i:https?|no|all)_proxy$"
)
#: These name files of this machine.
_OF_THIS_MACHINE = re.compile(r"_(FILE|PATH|BUNDLE|HOME|CACHE|PROFILE)$")


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """What of ``environment`` a container gets."""
    return {
        name: value
        for name, value in environment.items()
        if _PASSED_ON.match(name) and not (name.startswith(("AWS", "MLFLOW", "HF")) and _OF_THIS_MACHINE.search(name))
    }


def execute(yaml: Path, arguments: dict[str, Any], root: Path, log: Path, runner: str, verbose: bool) -> None:
    """Run the compiled file with artifacts below ``root``. Raises RuntimeError when a task fails, after the exit handler.

    ``runner``: "process" (this environment) or "docker" (the images that `make images` built); :class:`UserError` where
    docker does not answer.
    """
    from kfp import components, local

    # The runner warns about each image that is not called "python" and each setting that only a cluster knows.
    warnings.filterwarnings("ignore", module=r"kfp\.")
    loaded = components.load_component_from_file(str(yaml))
    chosen = local.SubprocessRunner(use_venv=False) if runner == "process" else _containers(root, _images(loaded))
    local.init(chosen, pipeline_root=str(root), enable_caching=True)
    _try_once(loaded)
    plain_print = builtins.print  # KFP's runner replaces it to indent; with parallel tasks it does not put it back
    try:
        with open(log, "w", encoding="utf-8") as file, redirect_stdout(console.Tee(sys.stdout, file, verbose)):
            loaded(**arguments)
    finally:
        builtins.print = plain_print


def _try_once(loaded: Any) -> None:
    """Retries wait for minutes between attempts; here a person waits, and the same command continues anyway."""
    spec = loaded.component_spec.implementation.graph
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            task.ClearField("retry_policy")


def _images(loaded: Any) -> set[str]:
    executors = loaded.component_spec.implementation.graph.deployment_spec["executors"]
    return {executor["container"]["image"] for executor in executors.values()}


def _containers(root: Path, images: set[str]) -> Any:
    """KFP's docker runner: the images' own user, this machine's network or that of ``INRANKER_DOCKER_NETWORK``."""
    import docker
    from kfp import local

    try:
        docker.from_env().ping()
    except Exception as error:  # docker's errors have no common base
        raise UserError(
            f"RUNNER=docker: no docker engine answers ({error}); start it, or use RUNNER=process"
        ) from error
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith("http"):
        raise UserError(f"RUNNER=docker: containers reach no SQLite file ({uri}); set MLFLOW_TRACKING_URI to a server")
    user, group = os.getuid(), os.getgid()
    if user == 0:
        # The images' user is not ours: what KFP makes here must be writable for it.
        user = group = UID
        os.umask(0)
        root.chmod(0o777)
    return local.DockerRunner(
        user=f"{user}:{group}",
        network_mode=os.environ.get("INRANKER_DOCKER_NETWORK", "host"),
        environment=passed_on(os.environ),
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )
