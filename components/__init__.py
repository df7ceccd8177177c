"""KFP components: one folder each, a thin adapter around a stage of `inranker_flow`."""

from components.discover.component import discover
from components.distill_phase1.component import distill_phase1
from components.distill_phase2.component import distill_phase2
from components.evaluate.component import evaluate
from components.generate_queries.component import generate_queries
from components.notify.component import notify
from components.preflight.component import preflight
from components.prepare_corpus.component import prepare_corpus
from components.promote.component import promote
from components.retrieve.component import retrieve
from components.teacher_label.component import teacher_label

COMPONENTS = {
    "preflight": preflight,
    "discover": discover,
    "prepare_corpus": prepare_corpus,
    "retrieve": retrieve,
    "teacher_label": teacher_label,
    "generate_queries": generate_queries,
    "distill_phase1": distill_phase1,
    "distill_phase2": distill_phase2,
    "evaluate": evaluate,
    "promote": promote,
    "notify": notify,
}

__all__ = [
    "COMPONENTS",
    "discover",
    "distill_phase1",
    "distill_phase2",
    "evaluate",
    "generate_queries",
    "notify",
    "preflight",
    "prepare_corpus",
    "promote",
    "retrieve",
    "teacher_label",
]
