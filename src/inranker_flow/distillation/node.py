"""One machine of a training that a TrainJob spreads over several: python -m inranker_flow.distillation.node URI

Below URI lie ``job.json`` and the folders that it names (`trainjob.py` puts them there). Each machine fetches them and runs
the stage's own code; the first writes ``model`` and then ``answer.json`` there. A line of what is wrong goes to ``error.txt``.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from inranker_flow import redaction, scratch
from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import DistillConfig
from inranker_flow.environment import mounted, variables
from inranker_flow.errors import UserError
from inranker_flow.execution.run_stage import start_logging
from inranker_flow.storage import uris
from inranker_flow.store import unfinished

log = logging.getLogger(__name__)


def train(uri: str) -> None:
    """Do this machine's part of the training at ``uri``."""
    from inranker_flow.stages.distill import distill

    job = json.loads(uris.read(f"{uri}/job.json"))
    first = variables.node() == "0"

    def here(name: str) -> Path:
        return uris.local_copy(f"{uri}/{name}")

    with unfinished.kept_first(), scratch.aside(scratch.root() / "node", folder=True) as folder:
        model = folder / "model"
        stats = distill(
            parse(DistillConfig, job["config"], "config"),
            [here(each) for each in job["training_sets"]],
            here(job["start"]) if job["start"] else None,
            model,
            here(job["replay"]) if job["replay"] else None,
        )
        if first:
            uris.upload(model, f"{uri}/model")
            uris.put(json.dumps(asdict(stats)).encode(), f"{uri}/answer.json")
        shutil.rmtree(model, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Train; returns the exit status."""
    mounted.settle()
    with redaction.hidden_in_output():
        start_logging(f"distill node {variables.node()}")
        try:
            train(arguments[0])
        except UserError as error:
            line = " ".join(redaction.redact(str(error)).split())
            uris.put_if_absent(line.encode(), f"{arguments[0]}/error.txt")
            log.error("FAILED: %s", line)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
