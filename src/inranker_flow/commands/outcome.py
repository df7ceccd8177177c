"""How a run ended, for programs: what `inranker run` leaves in its folder, and what `distil` returns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from inranker_flow.commands.console import results_table
from inranker_flow.storage.local import atomic_write

FILENAME = "outcome.json"


@dataclass(frozen=True)
class Distilled:
    """The result of a run. ``verdict``: PROMOTE, or HOLD where the student is not shown to be better, or NOTHING where no
    corpus was new (`retrain`); ``reason`` says why.

    ``measures``: data set -> system (bm25 or another first stage, phase1, ...) -> mean of ``measure``. ``student``: the
    student's folder, which :class:`inranker_flow.Reranker` and `transformers` load. ``report``: the page with the evidence,
    HTML. ``model`` and ``version``: its name and number in the MLflow registry. All but the first two are blank for NOTHING.
    """

    verdict: str
    reason: str
    measure: str = ""
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)
    student: Path = Path()
    report: Path = Path()
    model: str = ""
    version: str = ""

    @property
    def table(self) -> str:
        """The measures as text: a row for each data set, a column for each system."""
        systems = list(dict.fromkeys(system for means in self.measures.values() for system in means))
        return results_table(self.measure, systems, self.measures)

    def write(self, folder: Path) -> None:
        """Leave it in the run's ``folder``."""
        with atomic_write(folder / FILENAME) as out:
            out.write(json.dumps(asdict(self), indent=1, default=str).encode())


def read(folder: Path) -> Distilled:
    """Return what the last run has left in its ``folder``."""
    found = json.loads((folder / FILENAME).read_text(encoding="utf-8"))
    return Distilled(**{**found, "student": Path(found["student"]), "report": Path(found["report"])})
