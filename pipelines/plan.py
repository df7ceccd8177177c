"""`make plan`: the library's plan, and whether the run's workflow would fit a cluster."""

from __future__ import annotations

import tempfile
from pathlib import Path

from inranker_flow.commands.command import command
from inranker_flow.commands.plan import print_plan
from inranker_flow.settings.profile import Profile
from pipelines import status_size, submission


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the plan; returns the exit status."""
    return print_plan(arguments, about_size)


def about_size(pipeline: str, profile: Profile, targets: int) -> list[str]:
    """Return the remarks about the size of a run with so many targets. Raises :class:`UserError` if it cannot fit."""
    if targets <= status_size.ALWAYS_FIT and profile.cluster.workers == 1:
        return []
    from pipelines import compile  # with KFP, whose import takes a second

    with tempfile.TemporaryDirectory() as folder:
        package = compile.compile_pipeline(pipeline, Path(folder) / "pipeline.yaml", profile.cluster)
        note = status_size.check(
            compile.read(package), submission.arguments(pipeline, profile), targets, profile.cluster.retries
        )
    return [f"on a cluster: {note}"] if note else []
