"""The exported module, and its graph of torch's own operators, which runs without crrl."""

from __future__ import annotations

import copy
import io

import torch
from torch import Tensor, nn

from crrl.classifier import ClassifierFile
from crrl.models import FeatureExtractor
from crrl.nn import GRU
from crrl.ops.gru.layer import forward_op
from crrl.reference.gru import Weights
from crrl.reference.motion import reverse, take_frames, valid_frames

ABOUT = "crrl.json"
"""The extra file in a .pt2 file that describes it."""


class Exported(nn.Module):
    """The exported module: features of clips and, if there is a classifier, the probability of each class."""

    def __init__(self, features: FeatureExtractor, head: ClassifierFile | None):
        super().__init__()
        self.features = features
        self.head = head
        self.taken = head.features if head and head.features is not features else None  # as a submodule

    def forward(self, x: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Features, float32 [B, F], and probabilities, float32 [B, C], of x [B, T, J·3] with lengths int64 [B]."""
        outputs = {"features": self.features(x, lengths)}
        if self.head:
            taken = self.taken(x, lengths) if self.taken else outputs["features"]
            outputs["probabilities"] = self.head.classifier.probabilities(taken).float()
        return outputs


class PaddedGRU(GRU):
    """crrl.nn.GRU over padded rows; each direction is a call of crrl::gru_layer, forwards over all frames.

    While torch records a graph, it unrolls its own GRU operator over the frames of the example. crrl::gru_layer is not
    unrolled; `torch_program` then replaces it by torch's operator, which computes the same for any number of frames.
    """

    def _layers(
        self,
        x: Tensor,
        hx: Tensor | None,
        lengths: Tensor | None,
        weights: list[list[Weights]],
        frames: int | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        assert lengths is not None
        valid = valid_frames(lengths, x.shape[1])[:, :, None]
        outputs, finals = [], []
        for forward, backward in weights:
            x = torch.where(valid, x, 0)
            there, back = _forwards(x, forward), _forwards(reverse(x, lengths), backward)
            x = torch.where(valid, torch.cat([there, reverse(back, lengths)], dim=2), 0)
            outputs.append(x)
            finals += [take_frames(y, lengths[:, None] - 1)[:, 0] for y in (there, back)]
        return outputs, torch.stack(finals)


def _forwards(x: Tensor, weights: Weights) -> Tensor:
    """One direction, forwards over all frames: x [B, T, I] → [B, T, H]."""
    h0 = x.new_zeros(1, x.shape[0], weights[1].shape[1])
    y: Tensor = forward_op(x, None, h0, list(weights), x.shape[1], True, True, False)[0]
    return y


def torch_program(exported: Exported, about: str) -> bytes:
    """The content of a .pt2 file for torch.export.load, for any number of clips and frames; `about` goes into ABOUT."""
    from torch.export import Dim, export, save

    twin = copy.deepcopy(exported).requires_grad_(False)
    for extractor in filter(None, (twin.features, twin.taken)):
        extractor.encoder.gru.__class__ = PaddedGRU
    gru = exported.features.encoder.gru
    batch, frames = Dim("batch", min=1), Dim("frames", min=1)
    example = torch.zeros(2, 3, gru.input_size), torch.tensor([3, 2])
    program = export(twin, example, dynamic_shapes=({0: batch, 1: frames}, {0: batch}))
    for node in program.graph.nodes:
        if node.target is forward_op:
            x, _, h0, weights, *_ = node.args
            node.target = torch.ops.aten.gru.input  # biases, layers, dropout, train, bidirectional, batch_first
            node.args = (x, h0, weights, True, 1, 0.0, False, False, True)
    program.graph_module.recompile()
    file = io.BytesIO()
    save(program, file, extra_files={ABOUT: about})
    return file.getvalue()
