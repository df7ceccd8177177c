"""Import what processes of tests import: the process that has imported this is forked for each of them (`forked`).

Nothing is computed here: threads do not survive a fork.
"""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress

#: What they need, however deep in a function it is imported.
_MODULES = (
    "inranker_flow.stages.distill",
    "inranker_flow.stages.evaluate",
    "inranker_flow.stages.generate_queries",
    "inranker_flow.stages.promote",
    "inranker_flow.stages.teacher_label",
    "inranker_flow.rankers.monot5",
    "inranker_flow.rankers.t5_forward",
    "inranker_flow.generation.backends.transformers",
    "transformers.models.t5.modeling_t5",
    "transformers.models.t5.tokenization_t5",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "ir_measures",
    "scipy.stats",
    "boto3",
    "mlflow",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "jinja2",
    "tests.models",
    "tests.promoting",
    "tests.teachers",
)

gc.disable()
for _name in _MODULES:
    with suppress(ImportError):  # a bare machine has not all of them
        importlib.import_module(_name)
# What is here stays: a process that looked through it for garbage would copy it all.
gc.freeze()
gc.enable()
