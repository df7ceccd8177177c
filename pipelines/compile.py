"""Compile a pipeline to one YAML file, the same for the laptop and for the cluster, and resolve a profile beside it.

inranker compile inranker --profile paper --out build
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from kfp import compiler, dsl
from kfp.dsl import pipeline_task

from inranker_flow.commands.command import Parser, command
from inranker_flow.commands.options import add_options, profile_of, resolve
from inranker_flow.config.cluster import ClusterConfig
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.storage.local import atomic_write
from pipelines import placement, submission

#: Pipelines that `make` knows, by module name, and what Kubeflow's UI calls them.
PIPELINES = {"inranker": "InRanker", "retrain": "InRanker retraining"}


def define(name: str, cluster: ClusterConfig, values: Mapping[str, Any] | None = None) -> Any:
    """Return the KFP pipeline ``name`` for ``cluster``, with a profile's ``values`` as its default; raises :class:`UserError`
    where there is none of this name."""
    if name not in PIPELINES:
        raise UserError(f"PIPELINE={name}: no such pipeline; there is: {', '.join(PIPELINES)}", code="pipeline-unknown")
    function = getattr(importlib.import_module(f"pipelines.{name}"), name)
    description = (inspect.getdoc(function) or "").partition("\n")[0]

    @functools.wraps(function)
    def defined(*given: Any, **named: Any) -> None:
        function(*given, **named)

    signature = inspect.signature(function)
    default = signature.parameters["values"].replace(default=dict(values or {}))
    defined.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[default if each.name == "values" else each for each in signature.parameters.values()]
    )
    with placement.compiled_for(cluster), _callers_by_name():
        return dsl.pipeline(name=name, display_name=PIPELINES[name], description=description)(defined)


@contextmanager
def _callers_by_name() -> Iterator[None]:
    """Within the block KFP gets the names of its callers alone.

    It asks for the whole stack at each limit of each task, to name a method in a message. Python then looks for the module of
    each frame among all that are loaded: seconds for a pipeline, where MLflow or torch is.
    """

    def stack() -> list[tuple[Any, ...]]:
        frame, found = sys._getframe(1), []
        while frame:
            found.append((frame, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
            frame = frame.f_back  # type: ignore[assignment]
        return found

    pipeline_task.inspect = SimpleNamespace(stack=stack)
    try:
        yield
    finally:
        pipeline_task.inspect = inspect


def compile_pipeline(
    name: str, path: Path, cluster: ClusterConfig | None = None, values: Mapping[str, Any] | None = None
) -> Path:
    """Write ``path`` (aside, then renamed), for ``cluster`` or for one of the usual kind; see :func:`define`.

    Raises :class:`UserError` for an unknown pipeline.
    """
    pipeline = define(name, cluster or ClusterConfig(), values)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "pipeline.yaml"  # the compiler wants a name of this form
        compiler.Compiler().compile(pipeline, str(made))
        with atomic_write(path) as out:
            out.write(made.read_bytes())
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Return the two documents of a compiled file: the pipeline, and what it asks of Kubernetes."""
    return list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=_LOADER))


#: libyaml's loader is ten times as quick, where PyYAML has it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@command
def main(arguments: list[str] | None = None) -> int:
    """Write PIPELINE.yaml and PIPELINE.PROFILE.json (the pipeline's arguments); returns the exit status."""
    parser = Parser("inranker compile")
    add_options(parser)
    parser.add_argument("--out", type=Path, default=Path("build"))
    options = parser.parse_args(arguments)
    resolved = resolve(options)
    if variables.registry() == "localhost":
        print(
            "warning: REGISTRY is not set, so the images are localhost/...: right for make run, and no cluster pulls them",
            file=sys.stderr,
        )
    print(
        compile_pipeline(
            options.pipeline, options.out / f"{options.pipeline}.yaml", resolved.cluster, resolved.arguments()
        )
    )
    values = options.out / f"{options.pipeline}.{Path(profile_of(options)).stem}.json"
    with atomic_write(values) as out:
        out.write(
            (json.dumps(submission.arguments(options.pipeline, resolved), indent=1, ensure_ascii=False) + "\n").encode()
        )
    print(values)
    return 0
