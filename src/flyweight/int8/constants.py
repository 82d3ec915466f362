"""Store the weights of an ONNX graph as integers instead of floats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["store_integers_"]


def _inputs(node: Any) -> Iterator[str]:
    """Names of all inputs of a node, also in graphs inside it, as If and Loop have."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _inputs(inner)


def store_integers_(model: Any) -> None:
    """Replace each QuantizeLinear of constants by its result, and drop unused floats.

    Nodes that depend on an input of the graph are not changed, nor is DequantizeLinear, which tells
    a runtime what it may compute in integers.

    Args:
        model: an ``onnx.ModelProto``.
    """
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    constants, fixed = set(weights) | {""}, []  # an optional input that is left out is ""
    for node in graph.node:
        of_weights = node.input and constants.issuperset(_inputs(node))
        if node.op_type == "Constant" or (of_weights and node.op_type != "DequantizeLinear"):
            constants.update(node.output)
            fixed.append(node)
    needed: set[str] = set()
    folded = []
    for node in reversed(fixed):
        if node.op_type == "QuantizeLinear" or needed.intersection(node.output):
            needed.update(_inputs(node))
            folded.append(node)
    rest = [node for node in graph.node if node not in folded]
    used = {name for node in rest for name in _inputs(node)}
    used.update(value.name for value in graph.output)
    made = [name for node in folded for name in node.output if name in used]
    if not made:
        return
    outputs = [helper.make_empty_tensor_value_info(name) for name in made]
    part = helper.make_graph(folded[::-1], "weights", [], outputs, [*weights.values()])
    values = ReferenceEvaluator(
        helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    ).run(None, {})
    kept = [tensor for name, tensor in weights.items() if name in used]
    kept += [numpy_helper.from_array(value, name) for name, value in zip(made, values, strict=True)]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(rest)
