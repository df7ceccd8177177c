"""One process of a distillation that several share.

    accelerate launch --multi_gpu --num_machines 2 ... -m inranker_flow.distillation JOB.json

JOB.json: {"config": DistillConfig, "training_sets": [folders], "start": folder or null, "model": folder to write}, perhaps
"replay": folder, and, where the caller waits for it, "answer": a file that gets {"stats": ...} or {"error": line,
"code": ...}. On one machine nobody needs this: `distill` starts a process for each GPU by itself. Several machines started so
need the folders and INRANKER_SCRATCH on a volume that all of them see; those of a TrainJob (`node.py`) have each their own.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import DistillConfig
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.stages.distill import distill
from inranker_flow.storage.local import atomic_write
from inranker_flow.tracking import curves


def main(arguments: list[str]) -> int:
    """Run the job that ``arguments`` names; returns the exit status."""
    if len(arguments) != 1:
        print("FAILED: usage: accelerate launch ... -m inranker_flow.distillation JOB.json", file=sys.stderr)
        return 2
    first, first_here = variables.is_first(), variables.is_first_here()
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s")
    answer = ""
    try:
        try:
            job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
            answer = job.get("answer", "")
            work = (
                [Path(each) for each in job["training_sets"]],
                job["start"] and Path(job["start"]),
                Path(job["model"]),
                job.get("replay") and Path(job["replay"]),
            )
            # Whoever made the job has found the champion.
            config = replace(parse(DistillConfig, job["config"], "config"), start="phase1")
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"{arguments[0]}: not a job (see `python -m pydoc inranker_flow.distillation`): {error}",
                code="job-form",
            ) from error
        with curves.written(variables.stage_run()) if first and variables.stage_run() else nullcontext():
            stats = distill(config, *work)
        told: dict[str, object] = {"stats": asdict(stats)}
    except UserError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        told = {"error": str(error), "code": error.code}
    if answer and (first_here or "error" in told):
        with atomic_write(answer) as file:
            file.write(json.dumps(told).encode())
    return 2 if "error" in told else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
