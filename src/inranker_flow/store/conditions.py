"""What a stage's result follows from besides its code, its configuration and its inputs: libraries, precision, device."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

_MODELS = ("torch", "transformers", "tokenizers")
#: Stage -> the libraries that compute its result.
LIBRARIES = {
    "retrieve": ("bm25s", "PyStemmer"),
    "generate_queries": (*_MODELS, "vllm", "scikit-learn", "datasketch"),
    "teacher_label": _MODELS,
    "distill_phase1": (*_MODELS, "peft"),
    "distill_phase2": (*_MODELS, "peft"),
    "evaluate": (*_MODELS, "ir-measures", "scipy"),
    "export": (*_MODELS, "ir-measures", "scipy", "onnx", "onnxruntime", "openvino"),
}


def conditions(stage: str, embeds: bool = False) -> dict[str, Any]:
    """Return them for ``stage`` as data for JSON; ``embeds``: it computes vectors, which it does not always.

    ``libraries``: package -> version, of those that are installed. ``auto``: the precision that `auto` means on this
    machine, if the stage runs models. ``device``: what `evaluate` and `export` measure costs on.
    """
    names = tuple(dict.fromkeys((*LIBRARIES[stage], *(_MODELS if embeds else ()))))
    found: dict[str, Any] = {"libraries": {name: known for name in names if (known := _version(name))}}
    if "torch" in names:
        from inranker_flow.rankers.devices import settled_dtype

        found["auto"] = settled_dtype("auto")
    if stage in ("evaluate", "export"):
        from inranker_flow.evaluation.serving_cost import device_name

        found["device"] = device_name()
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
