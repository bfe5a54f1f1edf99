"""Who computes the same GRU: crrl, PyTorch, torch.compile, ONNX Runtime, OpenVINO; all on torch's number of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.cases import DTYPES, FEW_FRAMES, Problem, Run, converted, differentiable, torch_gru
from bench.timing import why
from crrl.nn import GRU, StepwiseBiGRU
from crrl.ops import cpu

Build = Callable[[Problem, str, bool], Run]
"""(problem, dtype, backward) to the call that is timed."""


class Absent(Exception):
    """A peer that cannot run a case; the message says why."""


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


def compiled(p: Problem, dtype: str, backward: bool) -> Run:
    """torch.compile of torch.nn.GRU; by default it would leave the GRU to eager PyTorch, so it is told to trace it."""
    if (p.case, dtype, backward) != (FEW_FRAMES, "fp32", False):
        raise Absent(f"unrolls every frame into one graph, minutes for 60 frames: timed only at {FEW_FRAMES.title}")
    with torch._dynamo.config.patch(allow_rnn=True):
        module = cast(nn.Module, torch.compile(converted(p, dtype)))
        run = differentiable(module, p, dtype, backward, lambda gru, x: gru(x))
        run()  # within the patch: it compiles now
    return run


@lru_cache(maxsize=1)
def _onnx_model(p: Problem) -> bytes:
    from bench.onnx_gru import gru_model

    return gru_model(p)


def _feeds(p: Problem) -> dict[str, Any]:
    lengths = {} if p.lengths is None else {"lengths": p.lengths.int().numpy()}
    return {"x0": p.x.numpy(), **lengths}


def _inference(backward: bool) -> None:
    if backward:
        raise Absent("inference only")


def _unheld() -> None:
    """For who takes the best instruction set there is, whatever everybody else is held to."""
    if cpu.isa:
        raise Absent(f"cannot be held to CRRL_ISA={cpu.isa}")


def onnx_session(model: bytes) -> Any:
    """An ONNX Runtime session.

    Its threads may spin while it works, which is its default and what it is fastest with, but are told to stop when a
    call returns: else they would hold the cores that the next peer is timed on.
    """
    _unheld()
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_runtime(p: Problem, dtype: str, backward: bool) -> Run:
    """ONNX Runtime on the ONNX model."""
    _inference(backward)
    if dtype != "fp32":
        raise Absent("its CPU GRU takes float32 alone")
    session, feeds = onnx_session(_onnx_model(p)), _feeds(p)
    return lambda: [torch.from_numpy(array) for array in session.run(None, feeds)]


def openvino_request(model: bytes, precision: str) -> Any:
    """An OpenVINO request, set for latency, which computes in this precision: "f32" or "bf16"."""
    _unheld()
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    core = ov.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != precision:
        raise Absent(f"computes in {used} on this processor")
    return compiled.create_infer_request()


def openvino(p: Problem, dtype: str, backward: bool) -> Run:
    """OpenVINO on the same ONNX model; bf16 is its own conversion of float32 weights and inputs."""
    _inference(backward)
    request, feeds = openvino_request(_onnx_model(p), {"fp32": "f32", "bf16": "bf16"}[dtype]), _feeds(p)

    def run() -> Sequence[Tensor]:
        outputs = request.infer(feeds, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(outputs[0]), torch.from_numpy(outputs[1])]

    return run


PEERS: dict[str, Build] = {
    "crrl": crrl_gru,
    "torch": torch_gru,
    "torch fp32": torch_fp32,
    "torch.compile": compiled,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
}


def gather(p: Problem, dtype: str, backward: bool) -> tuple[dict[str, Run], dict[str, str]]:
    """The peers that can run this, and why the others cannot. Ours and torch's must: their errors are raised."""
    runs, absent = {}, {}
    for name, build in PEERS.items():
        if name == "torch fp32" and dtype == "fp32":
            continue  # it is "torch" there
        try:
            runs[name] = build(p, dtype, backward)
        except ImportError as error:
            absent[name] = f"not installed ({error})"
        except Absent as reason:
            absent[name] = str(reason)
        except Exception as error:
            if name in ("crrl", "torch"):
                raise
            absent[name] = why(error)
    return runs, absent
