"""The section `export`."""

from __future__ import annotations

from dataclasses import dataclass

from inranker_flow.config.values import Count, Positive, Share, VariantName


@dataclass(frozen=True)
class ExportConfig:
    """The student's forms for runtimes without torch, and how each is compared with its checkpoint."""

    #: onnx: float32. onnx-int8: weights in 8 bits, scales of activations found at each call; onnx-int8-static (encoders):
    #: found on the job's own pairs. openvino, openvino-int8 (encoders): the same for OpenVINO, where it is installed.
    #: []: none.
    variants: tuple[VariantName, ...] = ("onnx", "onnx-int8", "onnx-int8-static", "openvino", "openvino-int8")
    #: Pairs of the evaluation that every variant scores, as whole lists of test queries, spread over the test sets.
    pairs: Positive = 500
    #: A variant whose scores have a lower rank correlation (Spearman) with the checkpoint's is left out.
    min_agreement: Share = 0.99
    #: Queries whose reranking of 100 passages is timed for each variant, on one CPU and on all; 0 measures no latency.
    latency_queries: Count = 5
