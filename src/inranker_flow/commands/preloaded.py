"""Import what the tasks of a run import: the process that has imported this is forked for each of them (`forked`).

Nothing is computed and no device is asked here: threads and CUDA do not survive a fork.
"""

from __future__ import annotations

import gc
import importlib
import signal
import sys

from inranker_flow.tracking import connection

#: In the order in which tasks need them. What an installation lacks, no task of it needs.
_MODULES = (
    "inranker_flow.execution.run_stage",
    "kfp.dsl.executor",
    "sqlalchemy.dialects.sqlite",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.store.model_registry.sqlalchemy_workspace_store",
    "inranker_flow.stages.preflight",
    "inranker_flow.stages.prepare_corpus",
    "inranker_flow.stages.retrieve",
    "bm25s",
    "Stemmer",
    "torch",
    "inranker_flow.stages.teacher_label",
    "inranker_flow.stages.distill",
    "inranker_flow.rankers.monot5",
    "inranker_flow.rankers.t5_forward",
    "transformers.models.t5.modeling_t5",
    "transformers.models.t5.tokenization_t5",
    "transformers.models.auto.tokenization_auto",
    "inranker_flow.stages.generate_queries",
    "inranker_flow.generation.backends.transformers",
    "datasketch",
    "inranker_flow.stages.evaluate",
    "ir_measures",
    "pytrec_eval",
    "scipy.stats",
    "onnxruntime.quantization",
    "inranker_flow.stages.export",
    "inranker_flow.stages.promote",
    "mlflow.pyfunc",
    "inranker_flow.stages.notify",
)

# All that is imported stays, so looking for garbage meanwhile finds none, and takes a quarter of the time.
gc.disable()
# Ctrl-C is for the run and its tasks. They end this process.
signal.signal(signal.SIGINT, signal.SIG_IGN)
connection.load()
for _name in _MODULES:
    try:
        importlib.import_module(_name)
    except ImportError:
        continue
if "sqlalchemy" in sys.modules:  # its classes are tied to tables when they are first used
    sys.modules["sqlalchemy"].orm.configure_mappers()
# What is here stays: a task that looked through it for garbage would copy it all.
gc.freeze()
gc.enable()
