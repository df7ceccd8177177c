"""Compile a pipeline to one YAML file, the same for the laptop and for the cluster, and resolve a profile beside it.

python -m pipelines.compile inranker --profile paper --out build
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path

from kfp import compiler

from inranker_flow.errors import UserError
from inranker_flow.storage import atomic_write
from pipelines.command import Parser, command
from pipelines.options import add_options, resolve

#: Pipelines that `make` knows, by module name.
PIPELINES = ("inranker", "retrain")


def compile_pipeline(name: str, path: Path) -> Path:
    """Write ``path`` (aside, then renamed); raises :class:`UserError` for an unknown pipeline."""
    if name not in PIPELINES:
        raise UserError(f"PIPELINE={name}: no such pipeline; there is: {', '.join(PIPELINES)}")
    function = getattr(importlib.import_module(f"pipelines.{name}"), name)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "pipeline.yaml"  # the compiler wants a name of this form
        compiler.Compiler().compile(function, str(made))
        with atomic_write(path) as out:
            out.write(made.read_bytes())
    return path


@command
def main(arguments: list[str] | None = None) -> int:
    """Write PIPELINE.yaml and PIPELINE.PROFILE.json (the pipeline's arguments); returns the exit status."""
    parser = Parser("make compile")
    add_options(parser)
    parser.add_argument("--out", type=Path, default=Path("build"))
    options = parser.parse_args(arguments)
    resolved = resolve(options)
    print(compile_pipeline(options.pipeline, options.out / f"{options.pipeline}.yaml"))
    values = options.out / f"{options.pipeline}.{Path(options.profile).stem}.json"
    with atomic_write(values) as out:
        out.write((json.dumps(resolved.arguments(), indent=1, ensure_ascii=False) + "\n").encode())
    print(values)
    return 0


if __name__ == "__main__":
    sys.exit(main())
