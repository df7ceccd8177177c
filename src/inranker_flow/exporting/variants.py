"""The variants of a student: one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inranker_flow.config.values import VariantName
from inranker_flow.exporting import onnx_files
from inranker_flow.exporting.graph import Graph
from inranker_flow.exporting.onnx_files import Feed

Runtime = Literal["onnxruntime", "openvino"]


@dataclass(frozen=True)
class Sources:
    """What variants are made of: the ``graph``, the ``folder`` of all, and batches of the job's own prompts."""

    graph: Graph
    folder: Path
    feeds: Callable[[], Iterator[Feed]]


@dataclass(frozen=True)
class Variant:
    """``path`` below a model's folder, as transformers, optimum and sentence-transformers name it; ``make`` writes it.

    ``needs``: packages beside the runtime. ``of``: the variant that it is made from. ``extra``: what installs the runtime.
    """

    path: str
    runtime: Runtime
    make: Callable[[Sources, Path], None]
    needs: tuple[str, ...] = ()
    of: VariantName | None = None
    #: A graph of another kind has no calibrated form.
    encoders_alone: bool = False

    @property
    def extra(self) -> str:
        return "openvino" if self.runtime == "openvino" else "export"

    def files(self, folder: Path) -> list[Path]:
        """Return its files: OpenVINO's weights lie beside the graph."""
        path = folder / self.path
        return [each for each in (path, path.with_suffix(".bin")) if each.is_file()]


def _onnx(sources: Sources, path: Path) -> None:
    onnx_files.write(sources.graph, path)


def _dynamic(sources: Sources, path: Path) -> None:
    onnx_files.dynamic_int8(sources.folder / VARIANTS["onnx"].path, path)


def _static(sources: Sources, path: Path) -> None:
    onnx_files.static_int8(sources.folder / VARIANTS["onnx"].path, path, sources.feeds())


def _openvino(of: VariantName) -> Callable[[Sources, Path], None]:
    def make(sources: Sources, path: Path) -> None:
        import openvino

        # Its converter sends telemetry; its reader of ONNX does not.
        model = openvino.Core().read_model(str(sources.folder / VARIANTS[of].path))
        openvino.save_model(model, str(path), compress_to_fp16=False)

    return make


VARIANTS: dict[VariantName, Variant] = {
    "onnx": Variant("onnx/model.onnx", "onnxruntime", _onnx, ("onnx",)),
    "onnx-int8": Variant("onnx/model_quantized.onnx", "onnxruntime", _dynamic, ("onnx",), "onnx"),
    "onnx-int8-static": Variant(
        "onnx/model_qint8_static.onnx", "onnxruntime", _static, ("onnx",), "onnx", encoders_alone=True
    ),
    "openvino": Variant("openvino/openvino_model.xml", "openvino", _openvino("onnx"), ("onnx",), "onnx"),
    "openvino-int8": Variant(
        "openvino/openvino_model_qint8_quantized.xml", "openvino", _openvino("onnx-int8-static"),
        ("onnx", "onnxruntime"), "onnx-int8-static", encoders_alone=True,
    ),
}  # fmt: skip
