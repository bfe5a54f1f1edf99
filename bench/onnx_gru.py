"""torch.nn.GRU's weights as an ONNX model, for the runtimes that read one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto, checker, helper, numpy_helper
from torch import Tensor, nn

from bench.cases import Problem


def gru_model(p: Problem) -> bytes:
    """The problem's GRU, float32: x0 [B, T, I] (ragged: and lengths int32 [B]) to y [B, T, 2·H] and h_n."""
    case = p.case
    nodes, weights, finals = [], [], []
    for layer in range(case.layers):
        made, held, states = (_stepwise_layer if case.stepwise else _bidirectional_layer)(p, layer)
        nodes += made
        weights += held
        finals += states
    nodes.append(helper.make_node("Concat", finals, ["h_n"], axis=0))
    inputs = [_value("x0", TensorProto.FLOAT, [case.batch, case.frames, case.inputs])]
    if p.lengths is not None:
        inputs.append(_value("lengths", TensorProto.INT32, [case.batch]))
    outputs = [
        _value(f"x{case.layers}", TensorProto.FLOAT, [case.batch, case.frames, 2 * case.hidden]),
        _value("h_n", TensorProto.FLOAT, [case.layers * 2, case.batch, case.hidden]),
    ]
    return _model(nodes, inputs, outputs, weights)


def streaming_model(gru: nn.GRU, batch: int, frames: int) -> bytes:
    """A GRU of one layer and direction, float32: x [B, T, I] and h0 [1, B, H] to y [B, T, H] and h_n [1, B, H]."""
    node, weights = _gru(gru, "t", "", ["_l0"], state="h0")
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node,
        helper.make_node("Squeeze", ["Y", "axis"], ["S"]),
        helper.make_node("Transpose", ["S"], ["y"], perm=[1, 0, 2]),
        helper.make_node("Identity", ["h"], ["h_n"]),
    ]
    states = [1, batch, gru.hidden_size]
    inputs = [_value("x", TensorProto.FLOAT, [batch, frames, gru.input_size]), _value("h0", TensorProto.FLOAT, states)]
    outputs = [
        _value("y", TensorProto.FLOAT, [batch, frames, gru.hidden_size]),
        _value("h_n", TensorProto.FLOAT, states),
    ]
    return _model(nodes, inputs, outputs, [*weights, _constant("axis", [1])])


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> bytes:
    graph = helper.make_graph(nodes, "gru", inputs, outputs, weights)
    # Operators and file of an age that every runtime of today reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


Layer = tuple[list[Any], list[Any], list[str]]
"""Nodes, the weights they read and the names of the final states: x{layer} [B, T, I] to x{layer + 1} [B, T, 2·H]."""


def _bidirectional_layer(p: Problem, layer: int) -> Layer:
    """One node for both directions: what a runtime has its best kernel for."""
    node, weights = _gru(p.gru, f"t{layer}", f"{layer}", [f"_l{layer}", f"_l{layer}_reverse"], _lengths(p))
    nodes = [
        helper.make_node("Transpose", [f"x{layer}"], [f"t{layer}"], perm=[1, 0, 2]),
        node,
        helper.make_node("Transpose", [f"Y{layer}"], [f"Z{layer}"], perm=[2, 0, 1, 3]),  # to [B, T, 2, H]
        helper.make_node("Reshape", [f"Z{layer}", f"shape{layer}"], [f"x{layer + 1}"]),
    ]
    return nodes, [*weights, _constant(f"shape{layer}", [0, 0, -1])], [f"h{layer}"]


def _stepwise_layer(p: Problem, layer: int) -> Layer:
    """Two forward nodes.

    Each output goes back to [B, T, H] before they meet: joined as [T, 2, B, H], OpenVINO 2026.4 gets it wrong.
    """
    nodes = [helper.make_node("Transpose", [f"x{layer}"], [f"t{layer}"], perm=[1, 0, 2])]
    weights, names = [_constant(f"axis{layer}", [1])], [f"{layer}_forward", f"{layer}_second"]
    for name, suffix in zip(names, (f"_l{layer}", f"_l{layer}_reverse"), strict=True):
        node, held = _gru(p.gru, f"t{layer}", name, [suffix], _lengths(p))
        squeeze = helper.make_node("Squeeze", [f"Y{name}", f"axis{layer}"], [f"S{name}"])
        nodes += [node, squeeze, helper.make_node("Transpose", [f"S{name}"], [f"Z{name}"], perm=[1, 0, 2])]
        weights += held
    nodes.append(helper.make_node("Concat", [f"Z{name}" for name in names], [f"x{layer + 1}"], axis=2))
    return nodes, weights, [f"h{name}" for name in names]


def _lengths(p: Problem) -> str:
    return "" if p.lengths is None else "lengths"


def _gru(
    gru: nn.GRU, x: str, name: str, suffixes: list[str], lengths: str = "", state: str = ""
) -> tuple[Any, list[Any]]:
    """x [T, B, I] to Y{name} [T, D, B, H] and h{name} [D, B, H] for the directions named: a node and its weights."""
    weights = [
        numpy_helper.from_array(value.numpy(), f"{letter}{name}")
        for letter, value in zip("WRB", _stacked(gru, suffixes), strict=True)
    ]
    inputs = [x, f"W{name}", f"R{name}", f"B{name}", lengths, state]
    attributes: dict[str, Any] = {
        "hidden_size": gru.hidden_size,
        "direction": "forward" if len(suffixes) == 1 else "bidirectional",
        "linear_before_reset": 1,  # torch's b_hn stands inside the product with r
    }
    return helper.make_node("GRU", inputs, [f"Y{name}", f"h{name}"], **attributes), weights


def _stacked(gru: nn.GRU, suffixes: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """W [D, 3H, I], R [D, 3H, H] and B [D, 6H] of the directions named."""

    def all_of(name: str) -> Tensor:
        return torch.stack([_z_first(getattr(gru, name + suffix).detach()) for suffix in suffixes])

    return all_of("weight_ih"), all_of("weight_hh"), torch.cat([all_of("bias_ih"), all_of("bias_hh")], dim=1)


def _z_first(gates: Tensor) -> Tensor:
    """From torch's order of gates, r z n, to ONNX's: z r n."""
    r, z, n = gates.chunk(3)
    return torch.cat([z, r, n])


def _value(name: str, kind: int, shape: list[int]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _constant(name: str, values: list[int]) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)
