"""Compile a pipeline to one YAML file, the same for the laptop and for the cluster, and resolve a profile beside it.

python -m pipelines.compile inranker --profile paper --out build
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from kfp import compiler

from inranker_flow.errors import UserError
from pipelines.options import add_options, resolve

#: Pipelines that `make` knows, by module name.
PIPELINES = ("inranker", "retrain")


def compile_pipeline(name: str, path: Path) -> Path:
    """Write ``path`` (aside, then renamed); raises :class:`UserError` for an unknown pipeline."""
    if name not in PIPELINES:
        raise UserError(f"PIPELINE={name}: no such pipeline; there is: {', '.join(PIPELINES)}")
    function = getattr(importlib.import_module(f"pipelines.{name}"), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside: Path = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        compiler.Compiler().compile(function, str(aside))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def main(arguments: list[str] | None = None) -> int:
    """Write PIPELINE.yaml and PIPELINE.PROFILE.json (the pipeline's arguments); returns the exit status."""
    parser = argparse.ArgumentParser(prog="make compile")
    add_options(parser)
    parser.add_argument("--out", type=Path, default=Path("build"))
    options = parser.parse_args(arguments)
    try:
        resolved = resolve(options)
        print(compile_pipeline(options.pipeline, options.out / f"{options.pipeline}.yaml"))
        values = options.out / f"{options.pipeline}.{Path(options.profile).stem}.json"
        values.write_text(json.dumps(resolved.arguments(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(values)
    except UserError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
