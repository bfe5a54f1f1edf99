"""Gradients that are torch.nn.GRU's after a change of the output, in batches, and through a graph for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from crrl import ops
from crrl.nn import GRU, StepwiseBiGRU

SHAPES = [(1, False, True), (2, True, False), (2, True, True)]
"""layers, bidirectional, batch_first"""


def twins(layers: int = 1, bidirectional: bool = False, batch_first: bool = True) -> tuple[GRU, nn.GRU]:
    """Ours and torch's with the same weights: 3 channels to 5 units."""
    torch.manual_seed(0)
    options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
    theirs, ours = (kind(3, 5, **options) for kind in (nn.GRU, GRU))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def frames(batch: int = 4, steps: int = 6) -> Tensor:
    return torch.randn(batch, steps, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()


def assert_same(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def add_itself(y: Tensor) -> None:
    y += y


def clear_first(y: Tensor) -> None:
    y[:, 0] = 0


def clear_behind_autograd(y: Tensor) -> None:
    y.detach().numpy()[:] = 0


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "relu_": torch.relu_,
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "F.dropout(inplace)": lambda y: F.dropout(y, 1.0, training=True, inplace=True),
    "+=": add_itself,
    "y[:, 0] = 0": clear_first,
    "masked_fill_": lambda y: y.masked_fill_(y > 0, 0),
    "mul_ of a view": lambda y: y[..., 1:3].mul_(2),
    "under no_grad": lambda y: torch.no_grad()(y.zero_)(),
    "detach().mul_": lambda y: y.detach().mul_(3),
    "data.mul_": lambda y: y.data.mul_(3),
    "NumPy": clear_behind_autograd,
    "of a transposed view": lambda y: y.transpose(0, 1).add_(1),
}


def gradients(module: nn.Module, change: Callable[[Tensor], Any], **arguments: Any) -> tuple[Tensor, ...]:
    x = frames()
    y, h_n = module(x, **arguments)
    change(y)
    change(h_n)
    return torch.autograd.grad(y.square().sum() + h_n.sin().sum(), [x, *module.parameters()])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("layers", "bidirectional", "batch_first"), SHAPES)
@pytest.mark.usefixtures("policy")
def test_the_output_may_be_changed_in_place(layers: int, bidirectional: bool, batch_first: bool, change: str) -> None:
    ours, theirs = twins(layers, bidirectional, batch_first)
    assert_same(gradients(ours, CHANGES[change]), gradients(theirs, CHANGES[change]))


@pytest.mark.parametrize("kind", [GRU, StepwiseBiGRU])
@pytest.mark.parametrize("change", CHANGES)
def test_ragged_and_stepwise_outputs_may_be_changed_in_place(kind: type[GRU], change: str) -> None:
    gru = kind(3, 5, 2, batch_first=True, bidirectional=True)
    lengths = torch.tensor([6, 2, 3, 1])
    got = gradients(gru, CHANGES[change], lengths=lengths)
    with ops.use_backends("reference"):
        assert_same(got, gradients(gru, CHANGES[change], lengths=lengths))


@pytest.mark.parametrize("whole", [True, False], ids=["within the graph", "behind the graph"])
@pytest.mark.parametrize("change", ["relu_", "+=", "y[:, 0] = 0"])
def test_a_compiled_output_may_be_changed_in_place(change: str, whole: bool) -> None:
    class Changed(nn.Module):
        def __init__(self, gru: nn.Module, change: Callable[[Tensor], Any]):
            super().__init__()
            self.gru, self.change = gru, change

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y, h_n = self.gru(x)
            self.change(y)
            return y, h_n

    ours, theirs = twins(2, bidirectional=True)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        module = Changed(ours, CHANGES[change]) if whole else ours
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        model = compiled if whole else Changed(compiled, CHANGES[change])
        got, want = (gradients(module, lambda y: None) for module in (model, Changed(theirs, CHANGES[change])))
    assert_same(got, want)


@pytest.mark.parametrize(("layers", "bidirectional", "batch_first"), SHAPES)
@pytest.mark.usefixtures("policy")
def test_batched_gradients(layers: int, bidirectional: bool, batch_first: bool) -> None:
    results = []
    for module in twins(layers, bidirectional, batch_first):
        x = frames()
        y, h_n = module(x)
        leaves, cotangents = (
            [x, *module.parameters()],
            torch.randn(7, *y.shape, generator=torch.Generator().manual_seed(2)),
        )
        results.append([
            torch.autograd.grad(y, leaves, cotangents, is_grads_batched=True, retain_graph=True),
            torch.func.vmap(lambda v, y=y, to=leaves: torch.autograd.grad(y, to, v, retain_graph=True))(cotangents),
            torch.autograd.grad(h_n, leaves, torch.eye(h_n.numel()).view(-1, *h_n.shape), is_grads_batched=True),
        ])  # fmt: skip
    assert_same(*results)


@pytest.mark.usefixtures("policy")
def test_vectorized_jacobians_and_hessians() -> None:
    ours, theirs = twins(2, bidirectional=True)
    x = frames(2, 3)
    for which in range(2):
        assert_same(*(jacobian(lambda x, m=module: m(x)[which], x, vectorize=True) for module in (ours, theirs)))  # noqa: B023
    assert_same(*(hessian(lambda x, m=m: m(x)[0].square().sum(), x, vectorize=True) for m in (ours, theirs)))


@pytest.mark.parametrize("lengths", [None, torch.tensor([6, 2, 3, 1])])
def test_batched_gradients_are_those_one_by_one(lengths: Tensor | None) -> None:
    gru, x = GRU(3, 5, 2, bias=False, batch_first=True, bidirectional=True), frames()
    y, _ = gru(x, lengths=lengths)
    leaves, cotangents = [x, *gru.parameters()], torch.randn(3, *y.shape)
    batched = torch.autograd.grad(y, leaves, cotangents, is_grads_batched=True, retain_graph=True)
    single = [torch.autograd.grad(y, leaves, cotangent, retain_graph=True) for cotangent in cotangents]
    assert_same(batched, tuple(torch.stack(each) for each in zip(*single, strict=True)))


def test_gradcheck_of_batched_gradients() -> None:
    gru = GRU(2, 3, batch_first=True)  # by the C++ kernels: in float32
    assert torch.autograd.gradcheck(
        lambda x: gru(x)[0], frames(2, 3)[..., :2].detach().requires_grad_(),
        eps=1e-2, atol=1e-2, rtol=1e-2, check_batched_grad=True, nondet_tol=1e-6,
    )  # fmt: skip


def exported(module: nn.Module, x: Tensor) -> Callable[..., Any]:
    made: Callable[..., Any] = torch.export.export(module, (x,)).module()
    return made


def exported_and_loaded(module: nn.Module, x: Tensor) -> Callable[..., Any]:
    import io

    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (x,)), file)
    file.seek(0)
    made: Callable[..., Any] = torch.export.load(file).module()
    return made


RECORDERS: dict[str, Callable[[nn.Module, Tensor], Callable[..., Any]]] = {
    "torch.export": exported,
    "a saved torch.export": exported_and_loaded,
    "make_fx": lambda module, x: make_fx(module)(x),
}


@pytest.mark.filterwarnings("ignore")  # torch.export's, of torch.nn.GRU's own lists
@pytest.mark.parametrize("frozen", [False, True], ids=["without gradient", "with frozen weights"])
@pytest.mark.parametrize("recorder", RECORDERS)
@pytest.mark.parametrize(("layers", "bidirectional", "batch_first"), SHAPES)
def test_a_graph_recorded_for_inference_can_be_trained(
    layers: int, bidirectional: bool, batch_first: bool, recorder: str, frozen: bool
) -> None:
    gru, _ = twins(layers, bidirectional, batch_first)
    recorded = copy.deepcopy(gru).requires_grad_(not frozen)
    with torch.set_grad_enabled(frozen):
        graph = RECORDERS[recorder](recorded, frames().detach())
    got_x, want_x = frames(), frames()
    got, want = (torch.autograd.grad(f(x)[0].square().sum(), x) for f, x in ((graph, got_x), (gru, want_x)))
    assert_same(got, want)
    if recorder == "torch.export" and not frozen:
        parameters = list(graph.parameters())  # type: ignore[attr-defined]
        got = torch.autograd.grad(graph(got_x)[0].square().sum(), parameters)
        named = dict(gru.named_parameters())
        names = [name for name, _ in graph.named_parameters()]  # type: ignore[attr-defined]
        assert_same(got, torch.autograd.grad(gru(want_x)[0].square().sum(), [named[name] for name in names]))


def test_a_graph_recorded_for_inference_can_be_trained_under_autocast() -> None:
    """What it runs again is what it ran: autocast may be on by then."""
    gru, x = GRU(3, 5, batch_first=True), frames()
    with torch.no_grad():
        graph = exported(gru, x.detach())
    y = graph(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(y.square().sum(), x)
    assert_same(got, torch.autograd.grad(gru(x)[0].square().sum(), x))
