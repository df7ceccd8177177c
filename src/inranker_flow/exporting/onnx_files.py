"""ONNX files: a traced module, and the same in 8 bits.

Traced by PyTorch's TorchScript exporter: it takes seconds where the one by torch.export takes ten times as long, and needs no
package beside onnx. What it may fix by accident (a length, a batch) shows in the scores, which are compared on real pairs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from inranker_flow.exporting import first_token
from inranker_flow.exporting.graph import Graph

Feed = dict[str, np.ndarray]
OPSET = 17
#: Numbers below which a matrix stays in float32: its bytes are no matter, its exactness may be (T5's position bias).
SMALL = 2048


def write(graph: Graph, path: Path) -> None:
    """Write ``graph`` in float32, with dynamic batch and length."""
    import onnx
    import torch
    from onnxruntime.quantization.shape_inference import quant_pre_process

    axes = {name: {0: "batch", 1: "length"} for name in graph.inputs}
    raw = path.with_suffix(".traced.onnx")
    inputs = tuple(map(torch.from_numpy, graph.example()))
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of the exporter's age, and of values that tracing fixes: see the module's text
        torch.onnx.export(
            graph.module(),
            inputs,
            str(raw),
            input_names=list(graph.inputs),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    # Constants are folded, and the shapes written that 8 bits need.
    quant_pre_process(str(raw), str(path), skip_symbolic_shape=True)
    raw.unlink()
    onnx.save(first_token.keep_first(onnx.load(str(path))), str(path))


def dynamic_int8(source: Path, path: Path) -> None:
    """Write ``source`` with weights in 8 bits, a scale for each column; those of activations are found at each call.

    Weights use 7 of the bits, because processors without VNNI saturate on 8. Embeddings are in 8 bits, too.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source), str(path), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True,
        nodes_to_quantize=[name for name, *_ in _products(source)], op_types_to_quantize=["MatMul", "Gather"],
        extra_options={"MatMulConstBOnly": True},
    )  # fmt: skip


def static_int8(source: Path, path: Path, feeds: Iterable[Feed]) -> None:
    """As :func:`dynamic_int8`, with scales of activations that are found here, on ``feeds``.

    A product that narrows stays in float32: what it reads, behind the activation of a feed-forward layer, has outliers that
    one scale for all does not hold (measured on a trained student: Spearman 0.96 with them in 8 bits, 0.99 without).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self._left, None)

    widening = [name for name, kind, rows, columns in _products(source) if kind == "MatMul" and rows <= columns]
    quantize_static(
        str(source), str(path), Reader(), quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8, per_channel=True, reduce_range=True, nodes_to_quantize=widening,
        op_types_to_quantize=["MatMul"], extra_options={"MatMulConstBOnly": True},
    )  # fmt: skip


def _products(source: Path) -> Iterator[tuple[str, str, int, int]]:
    """Yield name, operator, rows and columns of each product with a matrix of weights, and of each look-up in one."""
    import onnx

    graph = onnx.load(str(source)).graph
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gather"):
            shape = next((shapes[name] for name in node.input if name in shapes), ())
            if len(shape) == 2 and shape[0] * shape[1] >= SMALL:
                yield node.name, node.op_type, *shape
