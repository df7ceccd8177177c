"""An exported student that scores, by ONNX Runtime or OpenVINO: a ranker as those of `rankers/` are, without torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from inranker_flow import cpus
from inranker_flow.config.sections import ScoringConfig
from inranker_flow.config.values import VariantName
from inranker_flow.errors import UserError
from inranker_flow.exporting.graph import Graph
from inranker_flow.exporting.loading import graph_of
from inranker_flow.exporting.variants import VARIANTS, Runtime
from inranker_flow.rankers.base import Ranker
from inranker_flow.rankers.batches import BATCH_TOKENS, PAD_TO, Batches

#: Inputs by name -> the graph's one output.
Session = Callable[[dict[str, np.ndarray]], np.ndarray]


class ExportedRanker(Ranker):
    """A variant in ``path`` of the student that ``graph`` is of, on ``threads`` CPUs (0: all that this process may use)."""

    device = "cpu"

    def __init__(self, graph: Graph, path: Path, runtime: Runtime, threads: int = 0, batch_tokens: int = 0) -> None:
        self.graph, self.reader = graph, graph.reader
        self.batches = Batches(batch_tokens or BATCH_TOKENS["cpu"], PAD_TO[4])
        #: Of a file nobody knows them.
        self.parameters = 0
        self._session = _RUNTIMES[runtime](path, threads or cpus.available())

    def forward(self, *prompts: np.ndarray) -> np.ndarray:
        """Return logits [false, true], float32 (n, 2), of padded prompts."""
        feeds = self.graph.feeds(*prompts)
        return self.graph.logits(self._session(dict(zip(self.graph.inputs, feeds, strict=True))))


def load_exported(folder: Path, variant: VariantName, scoring: ScoringConfig, threads: int = 0) -> ExportedRanker:
    """Return the ``variant`` of the student in ``folder``, which reads as the folder says, otherwise as ``scoring`` does.

    Raises :class:`UserError` where the folder has no such variant, or its runtime is not installed.
    """
    made = VARIANTS[variant]
    if not (folder / made.path).is_file():
        raise UserError(
            f"{folder}: no variant {variant} ({made.path}); it has {', '.join(there(folder)) or 'none'}: name one of these, or "
            "let the stage `export` make it (export.variants)",
            code="not-found",
        )
    if find_spec(made.runtime) is None:
        raise UserError(
            f"{variant}: {made.runtime} is not installed; install the extra `{made.extra}`", code="package-missing"
        )
    return ExportedRanker(
        graph_of(str(folder), scoring), folder / made.path, made.runtime, threads, scoring.batch_tokens
    )


def there(folder: Path) -> list[str]:
    """Return the variants that lie in a model's ``folder``."""
    return [name for name, each in VARIANTS.items() if (folder / each.path).is_file()]


def _onnxruntime(path: Path, threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # A thread that spins takes the core from a neighbour: on a busy machine every operation then waits for one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {each.name for each in session.get_inputs()}
    return lambda feeds: session.run(None, {name: feeds[name] for name in names})[0]


def _openvino(path: Path, threads: int) -> Session:
    import openvino

    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()
    names = {each.get_any_name() for each in request.model_inputs}

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        found: np.ndarray = request.infer({name: feeds[name] for name in names})[0]
        return found.copy()

    return run


_RUNTIMES: dict[Runtime, Callable[[Path, int], Session]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
