"""`make versions`: which sources each reused stage's version stands for, so that none changes unnoticed.

    inranker versions          # says which stages' sources have changed; status 1 then
    inranker versions --write  # the versions in `stage_results.VERSIONS` stand for the sources as they are now

A result that is kept is used again until its stage's version is raised. The lock holds a digest of the sources behind each
version, which are found from the stage's imports (`sources`). A test compares them. Whoever changes a stage decides: other
results for the same input need a new version, the same results do not.
"""

from __future__ import annotations

import json
from pathlib import Path

from inranker_flow.commands.command import Parser, command
from inranker_flow.rankers.monot5_prompt import RENDERER_VERSION
from inranker_flow.store import stage_results
from inranker_flow.workflow.tasks import STAGES
from pipelines import sources
from pipelines.placement import ROOT

LOCK = ROOT / "pipelines" / "versions.lock"

#: What is in the label store, whose version is the renderer's: the modules that score.
LABELS = ("inranker_flow.scoring.engine", "inranker_flow.labelling.label_store", "inranker_flow.labelling.texts")


def current() -> dict[str, dict[str, str]]:
    """Return stage, or "labels" -> its version and the digest of its sources, as they are now."""
    versions = {"labels": RENDERER_VERSION, **{stage: str(number) for stage, number in stage_results.VERSIONS.items()}}
    return {
        stage: {"version": version, "sources": sources.digest(sources_of(stage))} for stage, version in versions.items()
    }


def sources_of(stage: str) -> list[Path]:
    """Return the files that the result of ``stage`` can depend on."""
    return sources.of(*(LABELS if stage == "labels" else [STAGES[stage].split(":")[0]]))


def changed(locked: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> list[str]:
    """Return one line for each stage whose lock is not as it is now."""
    lines = []
    for stage, found in now.items():
        known = locked.get(stage, {})
        if known.get("sources") != found["sources"] and known.get("version") == found["version"]:
            where = "monot5_prompt.RENDERER_VERSION" if stage == "labels" else f"stage_results.VERSIONS[{stage!r}]"
            lines.append(
                f"{stage}: its sources have changed. If its results can be others than before for the same input, raise "
                f"{where}; then: make versions"
            )
        elif known != found:
            lines.append(f"{stage}: version {found['version']} is not in pipelines/versions.lock; run: make versions")
    return lines


@command
def main(arguments: list[str] | None = None) -> int:
    """Compare or write the lock; returns the exit status."""
    parser = Parser("inranker versions")
    parser.add_argument("--write", action="store_true", help="let the versions stand for the sources as they are now")
    now = current()
    if parser.parse_args(arguments).write:
        LOCK.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return 0
    lines = changed(json.loads(LOCK.read_text(encoding="utf-8")), now)
    print("\n".join(lines) or "every version stands for the sources as they are")
    return int(bool(lines))
