"""The ONNX graph of an exported run, node by node: its GRU takes lengths, which torch's exporters cannot express."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from onnx import TensorProto, checker, helper, numpy_helper
from torch import Tensor

from crrl.classifier import ClassifierFile
from crrl.exporting.torch_program import Exported
from crrl.models import FeatureExtractor
from crrl.nn import GRU
from crrl.reference.gru import Weights

OPSET, IR_VERSION = 17, 8
"""Old enough for every current runtime."""
FLOAT, DOUBLE, INT32, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64


def onnx_model(exported: Exported, about: str) -> bytes:
    """A serialised ONNX model for any number of clips and frames; `about` becomes its metadata entry "crrl"."""
    graph = _Graph()
    features, head = exported.features, exported.head
    states = _States(graph, features.encoder.gru)
    sizes = {states.features(features, "features"): len(features.center)}
    if head:
        taken = states.features(exported.taken, "taken") if exported.taken else "features"
        sizes[_probabilities(graph, head, taken)] = len(head.facts.class_names)
    value = helper.make_tensor_value_info
    inputs = [
        value("x", FLOAT, ["batch", "frames", features.encoder.gru.input_size]),
        value("lengths", INT64, ["batch"]),
    ]
    outputs = [value(name, FLOAT, ["batch", size]) for name, size in sizes.items()]
    made = helper.make_graph(graph.nodes, "crrl", inputs, outputs, graph.weights)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION, producer_name="crrl")
    helper.set_model_props(model, {"crrl": about})
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


class _Graph:
    """The nodes of an ONNX graph and the weights that they read; each node has one output, of the node's name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def __call__(self, operator: str, *inputs: str | Tensor, name: str = "", **attributes: Any) -> str:
        """Add a node of ONNX's `operator` and return its name; tensors among its inputs become weights."""
        name = name or f"{operator}_{len(self.nodes)}"
        given = [each if isinstance(each, str) else self._weight(each) for each in inputs]
        self.nodes.append(helper.make_node(operator, given, [name], name, **attributes))
        return name

    def _weight(self, value: Tensor) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value.detach().numpy(), name))
        return name


class _States:
    """The hidden states of an encoder's layers, [T, B, 2·H] each, and the features made of them.

    Attributes:
        layers: the hidden states of each layer. valid: bool [T, B, 1], the frames that are not padding.
        count: float32 [B, 1], the frames of each clip.
    """

    def __init__(self, graph: _Graph, gru: GRU):
        self.graph = graph
        frames = graph("Gather", graph("Shape", "x"), torch.tensor(1))
        t = graph("Unsqueeze", graph("Range", torch.tensor(0), frames, torch.tensor(1)), torch.tensor([1]))
        self.valid = graph("Unsqueeze", graph("Less", t, "lengths"), torch.tensor([2]))
        self.count = graph("Unsqueeze", graph("Cast", "lengths", to=FLOAT), torch.tensor([1]))
        rows, x, self.layers = graph("Cast", "lengths", to=INT32), graph("Transpose", "x", perm=[1, 0, 2]), []
        for weights in gru._weights():
            x = self._layer(x, rows, weights, gru.hidden_size)
            self.layers.append(x)

    def _layer(self, x: str, rows: str, weights: Sequence[Weights], hidden: int) -> str:
        """x [T, B, I] → [T, B, 2·H], 0 at padded frames; rows: int32 [B]."""
        graph = self.graph
        stacked = (torch.stack([_z_first(tensor) for tensor in kind]) for kind in zip(*weights, strict=True))
        w_ih, w_hh, b_ih, b_hh = stacked
        y = graph(
            "GRU", x, w_ih, w_hh, torch.cat([b_ih, b_hh], dim=1), rows,
            hidden_size=hidden, direction="bidirectional", linear_before_reset=1,  # r multiplies W_hn h + b_hn
        )  # fmt: skip
        y = graph("Reshape", graph("Transpose", y, perm=[0, 2, 1, 3]), torch.tensor([0, 0, -1]))
        return graph("Where", self.valid, y, torch.tensor(0.0))

    def _average(self, h: str) -> str:
        return self.graph("Div", self.graph("ReduceSum", h, torch.tensor([0]), keepdims=0), self.count)

    def _deviation(self, h: str) -> str:
        away = self.graph("Sub", h, self._average(h))
        squared = self.graph("Where", self.valid, self.graph("Mul", away, away), torch.tensor(0.0))
        return self.graph("Sqrt", self._average(squared))

    def features(self, extractor: FeatureExtractor, name: str) -> str:
        """Features [B, F] as FeatureExtractor computes them, from a node called `name`."""
        graph, pooled = self.graph, self._average(self.layers[-1])
        if extractor.kind == "tuned":
            parts = [pool(h) for pool in (self._average, self._deviation) for h in self.layers]
            pooled = graph("Concat", *parts, axis=1)
        centred = graph("Sub", pooled, extractor.center)
        if not extractor.nuisances.numel():
            return graph("Mul", centred, extractor.scale, name=name)
        standard = graph("Mul", centred, extractor.scale)
        along = graph("MatMul", standard, extractor.nuisances)
        back = graph("MatMul", along, extractor.nuisances.t().contiguous())
        return graph("Sub", standard, back, name=name)


def _probabilities(graph: _Graph, head: ClassifierFile, features: str) -> str:
    """Probabilities, float32 [B, C], of features [B, F], as Classifier computes them."""
    known = head.classifier
    standard = graph("Cast", features, to=DOUBLE if head.facts.double else FLOAT)
    standard = graph("Mul", graph("Sub", standard, known.center), known.scale)
    logits = graph("Gemm", standard, known.weights, known.biases, transB=1)
    return graph("Cast", graph("Softmax", logits, axis=1), to=FLOAT, name="probabilities")


def _z_first(gates: Tensor) -> Tensor:
    """Reorder the gates from torch's order, r z n, to ONNX's, z r n."""
    r, z, n = gates.chunk(3)
    return torch.cat([z, r, n])
