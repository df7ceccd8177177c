"""A graph whose head reads the first token alone computes the other tokens' last layer for nobody: they are taken out.

The head of a BERT-like encoder takes position 0 of the last layer. Nothing behind the last attention mixes positions, so the
cut moves from the head up to the attention's queries; keys and values stay whole. The scores are the same ones. Of three layers
that is a quarter of the work.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

#: Operators that treat each element for itself: of one tensor, and of several that are broadcast.
_ALONE = {"Erf", "Tanh", "Sigmoid", "Relu", "Gelu", "Sqrt", "Cast", "Identity", "Softplus"}
_TOGETHER = {"Add", "Sub", "Mul", "Div", "Pow", "Where"}
#: Axis of the positions in what an encoder's layers hand on: (batch, length, width).
_LENGTH = 1
#: An input of a node that is cut: its place, and the axis.
_Part = tuple[int, int]


def keep_first(model: Any) -> Any:
    """Return an ONNX ``model`` that computes position 0 alone wherever only that is read; one of another form as it is."""
    import onnx

    model = onnx.shape_inference.infer_shapes(model)
    if not _Cut(model.graph).made:
        return model
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


class _Cut:
    """Changes ``graph``; ``made``: whether there was anything to change."""

    def __init__(self, graph: Any) -> None:
        self._graph, self._nodes = graph, list(graph.node)
        self._constants = {each.name: tuple(each.dims) for each in graph.initializer}
        self._ranks = {name: len(dims) for name, dims in self._constants.items()}
        for each in (*graph.value_info, *graph.input, *graph.output):
            self._ranks[each.name] = len(each.type.tensor_type.shape.dim)
        self._makers = {name: node for node in self._nodes for name in node.output}
        self._uses = Counter(name for node in self._nodes for name in node.input)
        #: Tensor -> the axes that those who read it want position 0 of.
        self._wanted: dict[str, list[int]] = defaultdict(list)
        narrow: list[tuple[Any, list[_Part]]] = []
        inside: set[str] = set()
        for node in reversed(self._nodes):
            parts: list[_Part] = []
            if self._reads_first(node):
                parts = [(0, _LENGTH)]
            elif (axis := self._narrow_axis(node)) is not None and (parts := self._inputs(node, axis)):
                inside.add(node.output[0])
            for place, part in parts:
                self._wanted[node.input[place]].append(part)
            narrow.append((node, parts))
        self.made = bool(inside)
        if self.made:
            self._rewrite(narrow[::-1], inside)

    def _reads_first(self, node: Any) -> bool:
        if node.op_type != "Gather" or self._ranks.get(node.input[0]) != 3 or _attribute(node, "axis", 0) != _LENGTH:
            return False
        found = [each for each in self._graph.initializer if each.name == node.input[1]]
        return bool(found) and _numbers(found[0]).tolist() == 0

    def _narrow_axis(self, node: Any) -> int | None:
        """Return the axis of which all who read the node's output want position 0; None where anybody wants more."""
        name = node.output[0]
        wanted = self._wanted[name]
        outputs = {each.name for each in self._graph.output}
        whole = len(wanted) < self._uses[name] or len(set(wanted)) != 1 or len(node.output) > 1 or name in outputs
        return None if whole else wanted[0]

    def _inputs(self, node: Any, axis: int) -> list[_Part]:
        """Return the inputs that are narrow if the output is; none where the output cannot be."""
        kind, rank = node.op_type, self._ranks.get(node.output[0], 0)
        ranks = [self._ranks.get(name, 0) for name in node.input]
        if kind in _ALONE:
            return [(0, axis)]
        if kind in _TOGETHER:
            axes = [(place, axis - rank + own) for place, own in enumerate(ranks)]
            return [(place, own) for place, own in axes if own >= 0 and self._size(node.input[place], own) != 1]
        if kind in ("Softmax", "LayerNormalization"):
            return [(0, axis)] if _attribute(node, "axis", -1) % rank > axis else []
        if kind == "MatMul":
            return [(0, axis)] if axis == rank - 2 and ranks[0] == rank else []
        if kind == "Transpose":
            return [(0, _attribute(node, "perm", None)[axis])]
        if kind == "Reshape":
            shape = self._makers.get(node.input[1])
            if shape is None or shape.op_type != "Concat" or len(shape.input) != rank or axis != _LENGTH:
                return []
            return [] if shape.input[axis] in self._constants else [(0, axis)]
        return []

    def _size(self, name: str, axis: int) -> int | None:
        return self._constants[name][axis] if name in self._constants else None

    def _rewrite(self, nodes: list[tuple[Any, list[_Part]]], inside: set[str]) -> None:
        from onnx import helper, numpy_helper

        numbers = {0, 1, *(axis for _, parts in nodes for _, axis in parts)}
        self._graph.initializer.extend(
            numpy_helper.from_array(np.array([each], np.int64), f"first/{each}") for each in numbers
        )
        made: list[Any] = []
        cut: set[str] = set()
        for node, parts in nodes:
            for place, axis in parts:
                if node.input[place] in inside:
                    continue
                name = f"{node.input[place]}/first{axis}"
                if name not in cut:
                    cut.add(name)
                    which = ["first/0", "first/1", f"first/{axis}"]
                    made.append(helper.make_node("Slice", [node.input[place], *which], [name], name=name))
                node.input[place] = name
            if parts and node.op_type == "Reshape":
                pieces = list(self._makers[node.input[1]].input)
                pieces[_LENGTH] = "first/1"
                node.input[1] = f"{node.output[0]}/shape"
                made.append(helper.make_node("Concat", pieces, [node.input[1]], name=node.input[1], axis=0))
            made.append(node)
        copies = [type(each).FromString(each.SerializeToString()) for each in made]
        del self._graph.node[:]
        self._graph.node.extend(copies)


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def _numbers(initializer: Any) -> np.ndarray:
    from onnx import numpy_helper

    found: np.ndarray = numpy_helper.to_array(initializer)
    return found
