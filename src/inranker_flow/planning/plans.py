"""A plan: what each stage of a run will take, as rows, and as the sentence beside a submitted run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from inranker_flow.progress import duration, of_duration

#: Stages whose work on one collection several pods share (`cluster.workers`).
SHARED = ("generate_queries", "teacher_label")


@dataclass(frozen=True)
class Row:
    """One stage for one collection ("" for all). ``tokens`` are those that a model reads or, for queries, writes too;
    ``hours`` of one device, None where a speed is not known; ``stored`` bytes."""

    collection: str
    stage: str
    documents: int = 0
    queries: int = 0
    pairs: int = 0
    tokens: int = 0
    hours: float | None = 0.0
    stored: int = 0


@dataclass(frozen=True)
class Plan:
    """``device`` computes, ``gpus`` of it in each pod; ``workers`` pods share what a language model writes and what the
    teacher labels of one collection. ``notes`` say what is assumed."""

    device: str
    price: float
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    workers: int = 1
    gpus: int = 1

    @property
    def total(self) -> Row:
        """Sums. Documents and queries are counted where they first appear, pairs where a teacher labels them."""
        hours = [row.hours for row in self.rows]
        return Row(
            "",
            "total",
            documents=_sum(self.rows, "documents", "prepare_corpus"),
            queries=_sum(self.rows, "queries", "retrieve"),
            pairs=_sum(self.rows, "pairs", "teacher_label"),
            tokens=sum(row.tokens for row in self.rows),
            hours=None if None in hours else sum(filter(None, hours)),
            stored=sum(row.stored for row in self.rows),
        )

    @property
    def span(self) -> float | None:
        """Hours from the first task with a model to the end of the last, where no pod waits for a GPU; None where a speed is
        not known.

        Phase 1 goes beside the targets, and these beside each other.
        """
        if self.total.hours is None:
            return None

        def hours(stage: str, collection: str = "") -> float:
            found = sum(row.hours or 0 for row in self.rows if (row.stage, row.collection) == (stage, collection))
            return found / self.gpus / (self.workers if stage in SHARED else 1)

        source, *targets = dict.fromkeys(row.collection for row in self.rows if row.collection)
        beside = [hours("generate_queries", each) + hours("teacher_label", each) for each in targets]
        first = hours("teacher_label", source) + hours("distill_phase1")
        return max(first, *beside, 0.0) + hours("distill_phase2") + hours("evaluate") + hours("judge")

    @property
    def promised(self) -> dict[str, float]:
        """The numbers that a run's stages report too, by the same names (see :func:`.reality.done`)."""
        found: dict[str, float] = {
            "queries": _sum(self.rows, "queries", "generate_queries"),
            "pairs": _sum(self.rows, "pairs", "teacher_label"),
            "tokens": _sum(self.rows, "tokens", "teacher_label"),
        }
        return found if self.total.hours is None else {**found, "hours": round(self.total.hours, 4)}

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        rows = [{**asdict(row), "price": self.cost(row)} for row in (*self.rows, self.total)]
        return {
            "device": self.device, "price": self.price, "rows": rows, "notes": self.notes, "reuse": "none assumed",
            "workers": self.workers, "span": self.span,
        }  # fmt: skip

    def cost(self, row: Row) -> float | None:
        """Return the price of a row; None where hours or price are not known."""
        return row.hours * self.price if self.price and row.hours is not None else None


def sentence_of(numbers: Mapping[str, float]) -> str:
    """Return ``1,200 queries, 4,800 pairs, 312,000 tokens, 15 min``: for a page, and for :func:`read_sentence`."""
    return ", ".join(
        duration(3600 * value) if key == "hours" else f"{value:,.0f} {key}" for key, value in numbers.items()
    )


def read_sentence(text: str) -> dict[str, float]:
    """Return the numbers of a :func:`sentence_of`; other words are skipped."""
    found = {}
    for part in text.split(", "):
        if (seconds := of_duration(part.strip())) is not None:
            found["hours"] = seconds / 3600
            continue
        number, _, key = part.strip().rpartition(" ")
        try:
            found[key] = float(number.rpartition(" ")[2].replace(",", ""))
        except ValueError:
            continue
    return {key: value for key, value in found.items() if key in ("queries", "pairs", "tokens", "hours")}


def _sum(rows: Sequence[Row], key: str, stage: str) -> int:
    return sum(getattr(row, key) for row in rows if row.stage == stage)
