"""KFP components: one folder each, a thin adapter around a stage of `inranker_flow`."""

from components.discover.component import discover
from components.distill_phase1.component import distill_phase1
from components.distill_phase2.component import distill_phase2
from components.evaluate.component import evaluate
from components.export.component import export
from components.generate_queries.component import generate_queries
from components.help_generate.component import help_generate
from components.help_label.component import help_label
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
    "help_label": help_label,
    "generate_queries": generate_queries,
    "help_generate": help_generate,
    "distill_phase1": distill_phase1,
    "distill_phase2": distill_phase2,
    "evaluate": evaluate,
    "export": export,
    "promote": promote,
    "notify": notify,
}

__all__ = [
    "COMPONENTS",
    "discover",
    "distill_phase1",
    "distill_phase2",
    "evaluate",
    "export",
    "generate_queries",
    "help_generate",
    "help_label",
    "notify",
    "preflight",
    "prepare_corpus",
    "promote",
    "retrieve",
    "teacher_label",
]
