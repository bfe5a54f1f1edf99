"""crrl.nn.GRU in what records, counts, scripts or quantizes a model: torch.export, ONNX, fx, trace, FLOP, classes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from crrl.models import Encoder, FeatureExtractor
from crrl.nn import GRU, StepwiseBiGRU, accelerate, decelerate

SIZES = [(3, 5), (3, 9), (4, 5), (2, 11)]
"""Rows and frames; the first are those that a graph is recorded with."""


class Net(nn.Module):
    """A GRU between two layers."""

    def __init__(self, kind: type[nn.GRU], **options: Any):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 4)
        self.gru = kind(4, 5, 2, bidirectional=True, **{"batch_first": True, **options})
        self.last = nn.Linear(10, 3)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = self.first(x)
        y, _ = self.gru(x) if lengths is None else self.gru(x, lengths=lengths)
        result: Tensor = self.last(y)
        return result


MODELS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "padded": (lambda: Net(GRU), False),
    "ragged": (lambda: Net(GRU), True),
    "time first": (lambda: Net(GRU, batch_first=False), False),
    "stepwise": (lambda: Net(StepwiseBiGRU), False),
    "stepwise and ragged": (lambda: Net(StepwiseBiGRU), True),
    "the encoder's mean": (lambda: FeatureExtractor(Encoder(6, 8)), True),
    "the encoder's moments": (lambda: FeatureExtractor(Encoder(6, 8), "moments"), True),
}
"""A model, and whether it is given lengths."""


def arguments(model: str, batch: int, frames: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch * frames)
    x = torch.randn(batch, frames, 6, generator=generator)
    return (x, torch.randint(1, frames + 1, (batch,), generator=generator)) if MODELS[model][1] else (x,)


def assert_same(run: Callable[..., Tensor], want: Callable[..., Tensor], model: str, sizes: list[Any] = SIZES) -> None:
    for size in sizes:
        given = arguments(model, *size)
        torch.testing.assert_close(run(*given), want(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_export_takes_any_number_of_rows_and_frames(model: str, strict: bool) -> None:
    module, given = MODELS[model][0]().eval(), arguments(model, *SIZES[0])
    dimensions = [{0: Dim("rows", min=2, max=64), 1: Dim("frames", min=2, max=64)}, {0: Dim("rows", min=2, max=64)}]
    with torch._dynamo.config.patch(allow_rnn=True):
        program = torch.export.export(module, given, dynamic_shapes=tuple(dimensions[: len(given)]), strict=strict)
    layers = [node for node in program.graph.nodes if node.target is torch.ops.crrl.gru_layer.default]
    assert len(layers) == 2
    assert_same(program.module(), module, model)


def test_one_compiled_graph_serves_all_lengths() -> None:
    module, graphs = Net(GRU), []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(module, backend=backend, fullgraph=True, dynamic=True)
        assert_same(compiled, module, "padded")
    assert len(graphs) == 1


def test_compiling_a_model_that_holds_one_warns_of_nothing_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    """torch.compile breaks its graph at every torch.nn.GRU, and looks into what that calls."""
    torch._dynamo.reset()
    module = Net(GRU)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled = torch.compile(module, backend="aot_eager")
        assert_same(compiled, module, "padded", SIZES[:1])
        assert_same(compiled, module, "ragged", SIZES[:1])
        compiled(arguments("padded", 3, 5)[0]).sum().backward()
    assert not [str(warning.message) for warning in caught if "crrl" in str(warning.message)]
    assert "crrl" not in capfd.readouterr().err


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore")  # torch calls tracing deprecated
def test_a_trace_serves_any_number_of_rows_and_frames(model: str) -> None:
    module = MODELS[model][0]().eval()
    assert_same(torch.jit.trace(module, arguments(model, *SIZES[0])), module, model)


@pytest.fixture
def run_onnx(tmp_path: Path) -> Callable[..., Callable[..., Tensor]]:
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    def export(module: nn.Module, given: tuple[Tensor, ...], **options: Any) -> Callable[..., Tensor]:
        names, path = ["x", "lengths"][: len(given)], tmp_path / "model.onnx"
        torch.onnx.export(module, given, path, input_names=names, output_names=["y"], **options)
        session = runtime.InferenceSession(path)

        def run(*tensors: Tensor) -> Tensor:
            feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
            return torch.from_numpy(session.run(None, feed)[0])

        return run

    return export


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_the_new_exporter_to_onnx_takes_it(model: str, run_onnx: Callable[..., Callable[..., Tensor]]) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    module, given = MODELS[model][0]().eval(), arguments(model, *SIZES[0])
    run = run_onnx(module, given, dynamo=True, verbose=False)
    with torch.no_grad():
        assert_same(run, module, model, SIZES[:1])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_the_old_exporter_to_onnx_takes_it_with_dynamic_axes(
    model: str, run_onnx: Callable[..., Callable[..., Tensor]]
) -> None:
    module, given = MODELS[model][0]().eval(), arguments(model, *SIZES[0])
    axes = {"x": {0: "a", 1: "b"}, "lengths": {0: "a"}} if len(given) == 2 else {"x": {0: "a", 1: "b"}}
    run = run_onnx(module, given, dynamo=False, dynamic_axes=axes)
    with torch.no_grad():
        assert_same(run, module, model)


def test_fx_calls_it_as_a_module() -> None:
    nodes = []
    for kind in (nn.GRU, GRU):
        graph = torch.fx.symbolic_trace(Net(kind), {"lengths": None})
        nodes.append([(node.op, str(node.target)) for node in graph.graph.nodes])
        assert_same(graph, Net(kind), "padded")
    assert nodes[0] == nodes[1]


def test_fx_passes_states_and_lengths_on() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = GRU(6, 5, batch_first=True)

        def forward(self, x: Tensor, hx: Tensor, lengths: Tensor) -> Tensor:
            y, h_n = self.gru(x, hx, lengths=lengths)
            return torch.cat([y.flatten(), h_n.flatten()])

    model, state = Whole(), torch.randn(1, 3, 5)
    given = torch.randn(3, 4, 6), state, torch.tensor([4, 1, 2])
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["gru"]
    assert torch.equal(graph(*given), model(*given))


def test_fx_traces_a_swapped_model() -> None:
    model = Net(nn.GRU)
    accelerate(model)
    assert_same(torch.fx.symbolic_trace(model, {"lengths": None}), model, "padded")


def test_fx_of_a_gru_by_itself_fails_as_torchs_does() -> None:
    for kind in (nn.GRU, GRU):
        with pytest.raises(torch.fx.proxy.TraceError):
            torch.fx.symbolic_trace(kind(3, 4))


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}, {"bias": False, "batch_first": True}])
def test_flops_are_torchs(options: dict[str, Any]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for kind in (nn.GRU, GRU):
        gru = kind(7, 12, **options)
        x, h0 = torch.randn(5, 5, 7, requires_grad=True), torch.randn(gru.num_layers * (1 + gru.bidirectional), 5, 12)
        with FlopCounterMode(display=False) as forward:
            y, _ = gru(x, h0.requires_grad_())
        with FlopCounterMode(display=False) as backward:
            y.sum().backward()
        counts.append((forward.get_total_flops(), backward.get_total_flops()))
    assert counts[0] == counts[1] != (0, 0)


def test_a_repeated_input_is_projected_once() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    pytest.importorskip("crrl._cpu", reason="the C++ extension is not built")
    with FlopCounterMode(display=False) as counter:
        GRU(7, 12, batch_first=True).unroll(torch.randn(5, 7), 9)
    assert counter.get_total_flops() == 2 * 5 * 36 * (7 + 9 * 12)


@pytest.mark.parametrize("first", ["crrl.nn", "torch.utils.flop_counter"])
def test_flops_are_counted_whichever_is_imported_first(first: str) -> None:
    code = (
        f"import {first}, crrl.nn, sys, torch\n"
        f"assert {first!r} != 'crrl.nn' or 'torch.utils.flop_counter' not in sys.modules\n"
        "from torch.utils.flop_counter import FlopCounterMode\n"
        "with FlopCounterMode(display=False) as counter: crrl.nn.GRU(3, 4)(torch.ones(2, 2, 3))\n"
        "print(counter.get_total_flops())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) == 2 * 4 * 12 * (3 + 4)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_script_says_what_to_do_and_changes_nothing() -> None:
    model = nn.Sequential(nn.GRU(3, 4), nn.Sequential(GRU(3, 4)))
    with pytest.raises(
        RuntimeError, match=r"cannot compile GRU: call crrl.nn.decelerate\(model\) first, or .*jit.trace"
    ):
        torch.jit.script(model)
    assert [type(module) for module in model.modules()][1::2] == [nn.GRU, GRU]
    with pytest.raises(RuntimeError, match=r"cannot compile StepwiseBiGRU: record the model by torch.jit.trace"):
        torch.jit.script(StepwiseBiGRU(3, 4))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_script_compiles_a_decelerated_model() -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = GRU(6, 5, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.gru(x)[0][:, -1]

    model, x = Sliced().eval(), torch.randn(3, 4, 6)
    want = model(x)
    decelerate(model)
    torch.testing.assert_close(torch.jit.script(model)(x), want)


@pytest.mark.filterwarnings("ignore:.*(torch.ao|quantize)")
def test_quantization_says_that_it_passes_it_by() -> None:
    model = nn.Sequential(GRU(6, 5))
    with pytest.warns(UserWarning, match=r"leaves crrl.nn.GRU in float; .* crrl.nn.decelerate\(model\) first"):
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.GRU})
    assert type(quantized[0]) is GRU
    assert torch.equal(quantized(torch.ones(2, 3, 6))[0], model(torch.ones(2, 3, 6))[0])
