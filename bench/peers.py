"""Who computes the same GRU: crrl, PyTorch, torch.compile, runtimes of ONNX models on a CPU, open kernels on a GPU.

On a CPU all run on torch's number of threads. Haste, FlashRNN and TorchRL have one direction of one layer: `stacked`
makes them a whole GRU, reversing and joining as a user would have to. A package that is not there raises ImportError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.cases import (
    DTYPES,
    FEW_FRAMES,
    Problem,
    Run,
    called,
    converted,
    differentiable,
    torch_forward,
    torch_gru,
)
from bench.timing import Absent
from crrl.nn import GRU, StepwiseBiGRU
from crrl.ops import cpu

Build = Callable[[Problem, str, bool], Run]
"""(problem, dtype, backward) to the call that is timed."""


def crrl_gru(p: Problem, dtype: str, backward: bool) -> Run:
    """crrl.nn, as its user calls it: the kernels are its own choice."""
    return differentiable(crrl_module(p, dtype), p, dtype, backward, lambda gru, x: gru(x, lengths=p.lengths))


def crrl_module(p: Problem, dtype: str) -> nn.GRU:
    """crrl.nn's module with the problem's weights, in this dtype and where the problem lies."""
    case = p.case
    if case.stepwise:
        module: nn.GRU = StepwiseBiGRU(case.inputs, case.hidden, case.layers, batch_first=True)
    else:
        module = GRU(case.inputs, case.hidden, case.layers, batch_first=True, bidirectional=True)
    module.load_state_dict(p.gru.state_dict())
    return module.to(p.x.device, DTYPES[dtype])


def torch_fp32(p: Problem, dtype: str, backward: bool) -> Run:
    """torch.nn.GRU in float32 whatever the row's dtype: what one has before going to bf16."""
    return torch_gru(p, "fp32", backward)


def compiled(p: Problem, dtype: str, backward: bool, unrolled: bool = False) -> Run:
    """torch.compile of torch.nn.GRU: as it comes, which leaves the GRU to eager PyTorch, or told to trace it."""
    module = cast(nn.Module, torch.compile(converted(p, dtype), dynamic=False))
    run = differentiable(module, p, dtype, backward, torch_forward(p))
    with torch._dynamo.config.patch(allow_rnn=unrolled):
        run()  # within the patch: it compiles now
    return run


def unrolled(p: Problem, dtype: str, backward: bool) -> Run:
    """torch.compile that traces the GRU, where that takes no minutes."""
    if (p.case, dtype, backward) != (FEW_FRAMES, "fp32", False):
        raise Absent(f"unrolls every frame into one graph, minutes for 60 frames: timed only at {FEW_FRAMES.title}")
    return compiled(p, dtype, backward, unrolled=True)


@lru_cache(maxsize=1)
def _onnx_model(p: Problem) -> bytes:
    from bench.onnx_gru import gru_model

    return gru_model(p)


def _inference(p: Problem, backward: bool) -> tuple[bytes, dict[str, Tensor]]:
    """The model and its inputs."""
    if backward:
        raise Absent("inference only")
    lengths = {} if p.lengths is None else {"lengths": p.lengths.int()}
    return _onnx_model(p), {"x0": p.x, **lengths}


def _unheld() -> None:
    """For who takes the best instruction set there is, whatever everybody else is held to."""
    if cpu.isa:
        raise Absent(f"cannot be held to CRRL_ISA={cpu.isa}")


def onnx_runtime(model: bytes, inputs: Mapping[str, Tensor]) -> Run:
    """ONNX Runtime on a model.

    Its threads may spin while it works, which is its default and what it is fastest with, but are told to stop when a
    call returns: else they would hold the cores that the next peer is timed on.
    """
    _unheld()
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    return lambda: [torch.from_numpy(array) for array in session.run(None, feeds)]


def openvino(model: bytes, inputs: Mapping[str, Tensor], precision: str = "f32") -> Run:
    """OpenVINO on a model, set for latency; "bf16" is its own conversion of float32 weights and inputs."""
    _unheld()
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    core = ov.Core()
    loaded = core.compile_model(core.read_model(model), "CPU", settings)
    used = loaded.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != precision:
        raise Absent(f"computes in {used} on this processor")
    request, feeds = loaded.create_infer_request(), {name: tensor.numpy() for name, tensor in inputs.items()}

    def run() -> Sequence[Tensor]:
        outputs = request.infer(feeds, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(outputs[place]) for place in range(2)]

    return run


def _onnx_runtime_gru(p: Problem, dtype: str, backward: bool) -> Run:
    model, inputs = _inference(p, backward)
    if dtype != "fp32":
        raise Absent("its CPU GRU takes float32 alone")
    return onnx_runtime(model, inputs)


def _openvino_gru(p: Problem, dtype: str, backward: bool) -> Run:
    return openvino(*_inference(p, backward), {"fp32": "f32", "bf16": "bf16"}[dtype])


ON_CPU: dict[str, Build] = {
    "crrl": crrl_gru,
    "torch": torch_gru,
    "torch fp32": torch_fp32,
    "torch.compile": unrolled,
    "ONNX Runtime": _onnx_runtime_gru,
    "OpenVINO": _openvino_gru,
}


Direction = Callable[[Tensor], Tensor]
"""x [B, T, I] to y [B, T, H], forwards in time."""

Make = Callable[[Sequence[Tensor], str], tuple[Direction, list[Tensor]]]
"""(w_ih, w_hh, b_ih, b_hh as torch.nn.GRU has them; the dtype) to a direction and the leaves that get gradients."""


def haste(weights: Sequence[Tensor], dtype: str) -> tuple[Direction, list[Tensor]]:
    """Haste: a layer of its own, weights transposed, gates in the order z, r, n."""
    import haste_pytorch  # type: ignore[import-not-found]

    if dtype not in ("fp32", "fp64"):
        raise NotImplementedError("Haste takes float32 and float64")
    hidden, inputs = weights[1].shape[1], weights[0].shape[1]
    layer = haste_pytorch.GRU(inputs, hidden, batch_first=True)
    r, z, n = range(3)
    named = zip(("kernel", "recurrent_kernel", "bias", "recurrent_bias"), weights, strict=True)
    with torch.no_grad():
        for name, weight in named:
            gates = weight.view(3, hidden, *weight.shape[1:])[[z, r, n]]
            getattr(layer, name).copy_(gates.reshape(weight.shape).t() if weight.dim() == 2 else gates.flatten())
    return lambda x: layer(x)[0], list(layer.parameters())


def flashrnn(weights: Sequence[Tensor], dtype: str) -> tuple[Direction, list[Tensor]]:
    """FlashRNN: the recurrence of W_ih x; gates (n of h, r, z) from h, and a bias each for these and for n of x."""
    from flashrnn import flashrnn as run  # type: ignore[import-not-found]

    w_ih, w_hh, b_ih, b_hh = (weight.detach() for weight in weights)
    hidden = w_hh.shape[1]
    of_x, of_h = b_ih.view(3, hidden), b_hh.view(3, hidden)
    bias = torch.stack([of_h[2], of_x[0] + of_h[0], of_x[1] + of_h[1], of_x[2]])[:, None]
    recurrent = w_hh.view(3, 1, hidden, hidden)[[2, 0, 1]]
    leaves = [tensor.clone().requires_grad_() for tensor in (w_ih, recurrent, bias)]
    name = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]

    def direction(x: Tensor) -> Tensor:
        gates = nn.functional.linear(x, leaves[0]).view(*x.shape[:2], 3, 1, hidden)
        states, _ = run(gates, leaves[1], leaves[2], function="gru", backend="cuda", dtype=name)
        return states[0][:, :, 0]  # type: ignore[no-any-return]

    return direction, leaves


def torchrl(weights: Sequence[Tensor], dtype: str) -> tuple[Direction, list[Tensor]]:
    """TorchRL's Triton kernel, which resets rows where it is told to: here nowhere."""
    from torchrl.modules.tensordict_module._rnn_triton import gru_triton  # type: ignore[import-not-found]

    if dtype != "fp32":
        raise NotImplementedError("TorchRL's kernel takes float32 tensors")
    leaves = [weight.detach().clone().requires_grad_() for weight in weights]

    def direction(x: Tensor) -> Tensor:
        before = x.new_zeros(*x.shape[:2], leaves[1].shape[1])
        resets = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        return gru_triton(x, before, *leaves, resets)[0]  # type: ignore[no-any-return]

    return direction, leaves


OPEN: dict[str, Make] = {"Haste": haste, "FlashRNN": flashrnn, "TorchRL": torchrl}


def stacked(make: Make, p: Problem, dtype: str, backward: bool) -> Run:
    """All layers and directions by an open peer: [y]; with backward [y, dx], all gradients computed."""
    gru = converted(p, dtype)
    layers, leaves = [], []
    for layer in range(gru.num_layers):
        both = [make(_weights(gru, f"l{layer}{suffix}"), dtype) for suffix in ("", "_reverse")]
        layers.append([direction for direction, _ in both])
        leaves += [leaf for _, its in both for leaf in its]

    def forward(y: Tensor) -> list[Tensor]:
        for ahead, back in layers:
            y = torch.cat([ahead(y), back(y.flip(1)).flip(1)], 2)
        return [y]

    run = called(forward, leaves, p, dtype, backward)
    return lambda: run()[:2]


def _weights(gru: nn.GRU, name: str) -> list[Any]:
    return [getattr(gru, f"{kind}_{name}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
