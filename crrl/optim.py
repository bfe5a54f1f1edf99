"""SGD and Adam over one flat buffer: gradient clipping, the step and the momentum update of Eq. 5 together.

The parameters become views of one buffer, and so do their moments; gradients are copied into another. From there a step
is one pass over memory (one more for clipping), whatever the number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from crrl import ops

Follow = Sequence[tuple[Iterable[Tensor], float]]
"""Groups of parameters that follow the optimised ones by Eq. 5, in the same order and shapes, each with a momentum."""


def flatten(parameters: Iterable[Tensor]) -> Tensor:
    """The buffer, float32 [N], of which `parameters` are consecutive views; made if they are not yet.

    Raises:
        ValueError: there is no parameter, or they are not all float32 on one device.
    """
    parameters = list(parameters)
    tensors = [parameter.detach() for parameter in parameters]
    if not tensors or any(t.dtype != torch.float32 or t.device != tensors[0].device for t in tensors):
        raise ValueError("a flat buffer takes float32 parameters on one device, at least one of them")
    total = sum(t.numel() for t in tensors)
    if _adjacent(tensors):
        return tensors[0].as_strided((total,), (1,))
    flat = torch.cat([t.reshape(-1) for t in tensors])
    for parameter, view in zip(parameters, views(flat, tensors), strict=True):
        parameter.data = view
    return flat


def _adjacent(tensors: list[Tensor]) -> bool:
    """Whether the tensors lie one after the other in one storage."""
    storage, place = tensors[0].untyped_storage().data_ptr(), tensors[0].storage_offset()
    for tensor in tensors:
        here = tensor.untyped_storage().data_ptr() == storage and tensor.storage_offset() == place
        if not here or not tensor.is_contiguous():
            return False
        place += tensor.numel()
    return True


def views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """`flat` [N] cut into tensors of the shapes of `like`."""
    pieces = torch.split(flat, [tensor.numel() for tensor in like])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]


def current_rates(optimizer: Optimizer) -> tuple[float, float]:
    """The current learning rate, and momentum or β1, of an optimizer of torch.optim or of this module."""
    group = optimizer.param_groups[0]
    return group["lr"], group["momentum"] if "momentum" in group else group["betas"][0]


class FlatOptimizer(Optimizer):
    """What FlatSGD and FlatAdam share: one parameter group over one flat buffer.

    `state_dict` has the form of torch.optim's optimizer of that name, and each loads the other's.

    The parameters share one storage: torch.save of some of them writes all of it, and safetensors.torch.save_model
    refuses them. Save `copy.deepcopy(module)`, whose parameters have their own memory.

    Args:
        parameters: float32, on one device; all of them need a gradient at every step.
        defaults: the settings of torch.optim's optimizer.
        max_norm: gradients are scaled to at most this 2-norm (torch.nn.utils.clip_grad_norm_); 0: not scaled.
        follow: at most two groups of parameters that follow the first parameters by Eq. 5 after each step; (): none.
        spare: how many numbers are sent along with the gradients.

    Attributes:
        gradients: float32 [N], which a step reads. spare: float32 [spare]. message: both, end to end.
    """

    moments: tuple[str, ...]
    """Names of the running moments in torch.optim's state."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        defaults: dict[str, Any],
        max_norm: float = 0.0,
        follow: Follow = (),
        spare: int = 0,
    ):
        super().__init__(parameters, {**defaults, "max_norm": max_norm})
        if len(self.param_groups) > 1:
            raise ValueError("a flat optimizer has one parameter group")
        self.parameters: list[Tensor] = self.param_groups[0]["params"]
        self.flat = flatten(self.parameters)
        self.message = self.flat.new_zeros(len(self.flat) + spare)
        self.gradients, self.spare = torch.split(self.message, [len(self.flat), spare])
        self._moments = [torch.zeros_like(self.flat) for _ in self.moments]
        self._step = torch.zeros(())  # on the CPU, float32, as torch.optim keeps it
        self._follow(follow)
        self._bind()

    def _follow(self, follow: Follow) -> None:
        groups = [(list(keys), momentum) for keys, momentum in follow]
        keys = [key for group, _ in groups for key in group]
        if len(groups) > 2 or [k.shape for k in keys] != [p.shape for p in self.parameters[: len(keys)]]:
            raise ValueError(
                "what follows must have the shapes of the first parameters, in their order, in one or two groups"
            )
        self._keys = flatten(keys) if keys else None
        ends = list(accumulate(sum(key.numel() for key in group) for group, _ in groups))
        momenta = [momentum for _, momentum in groups] or [0.0]
        self._following: dict[str, Any] = {
            "boundary": ends[0] if ends else 0,
            "momentum_head": momenta[0],
            "momentum_tail": momenta[-1],
        }

    def _bind(self) -> None:
        """Set the state of each parameter, as torch.optim keeps it, to views of the flat moments."""
        per_moment = [views(moment, self.parameters) for moment in self._moments]
        for parameter, *moments in zip(self.parameters, *per_moment, strict=True):
            self.state[parameter] = self._counted(dict(zip(self.moments, moments, strict=True)))

    def _counted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of one parameter, with the number of steps if torch.optim's optimizer keeps it."""
        return state

    def rates(self, lr: float, momentum: float, step: int) -> list[float]:
        """The numbers that step t = `step` (from 1) reads on the device: lr, momentum or β1, 1 − β1^t, 1 − β2^t."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Arguments of ops.flat_step that stay the same."""
        group = self.param_groups[0]
        following = self._following if self._all_followed() else {}
        return {"weight_decay": group["weight_decay"], "max_norm": group["max_norm"], **following}

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return int(self._step)

    @steps.setter
    def steps(self, value: int) -> None:
        self._step.fill_(value)

    @torch.no_grad()
    def collect(self, gradients: Sequence[Tensor]) -> Tensor:
        """Copy the gradients of all parameters into the flat buffer; returns the buffer."""
        return torch.cat([gradient.reshape(-1) for gradient in gradients], out=self.gradients)

    @torch.no_grad()
    def apply(self, rates: Tensor) -> None:
        """One step from the collected gradients. rates: float32 [4] on their device, as `self.rates` gives them."""
        first, *second = self._moments
        keys = self._keys if self._all_followed() else None
        arguments = (self.flat, self.gradients, first, second[0] if second else None, keys, rates)
        ops.flat_step(*arguments, **self.settings())
        if self._keys is not None and keys is None:  # a separate pass over the parameters that are followed
            ops.ema_update(self._keys, self.flat[: len(self._keys)], **self._following)

    def _all_followed(self) -> bool:
        return self._keys is not None and len(self._keys) == len(self.flat)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from each parameter's .grad, as in torch.optim.

        Raises:
            ValueError: a parameter has no gradient, or no longer lies in the optimizer's buffer.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [parameter.grad for parameter in self.parameters]
        if any(gradient is None for gradient in gradients):
            raise ValueError("a flat optimizer steps all its parameters: each needs a gradient")
        if flatten(self.parameters).data_ptr() != self.flat.data_ptr():
            raise ValueError("the parameters have left the optimizer's buffer: move the model first, then optimize it")
        self.steps += 1
        self.collect(gradients)  # type: ignore[arg-type]
        self.apply(torch.tensor(self.rates(*current_rates(self), self.steps)).to(self.flat.device))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state in the form of torch.optim, where each parameter has its own count of steps."""
        made = super().state_dict()
        made["state"] = {
            number: {**state, "step": state["step"].clone()} if "step" in state else state
            for number, state in made["state"].items()
        }
        return made

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a flat optimizer or of torch.optim's optimizer of that name.

        Raises:
            ValueError: the state belongs to other parameters or to another optimizer.
        """
        max_norm = self.param_groups[0]["max_norm"]
        super().load_state_dict(state_dict)
        self.param_groups[0].setdefault("max_norm", max_norm)  # torch.optim's state has none
        self.parameters = self.param_groups[0]["params"]
        loaded = [self.state[parameter] for parameter in self.parameters]
        self._step = torch.zeros(())
        for name, moment in zip(self.moments, self._moments, strict=True):
            moment.zero_()
            for state, view in zip(loaded, views(moment, self.parameters), strict=True):
                if (value := state.get(name)) is not None:
                    if value.shape != view.shape:
                        raise ValueError(f"the state of {name} is of other parameters")
                    view.copy_(value)
        if loaded and (step := loaded[0].get("step")) is not None:
            self.steps = int(step)
        self._bind()


class FlatSGD(FlatOptimizer):
    """torch.optim.SGD (momentum, weight decay, nesterov) on a flat buffer; see FlatOptimizer."""

    moments = ("momentum_buffer",)

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        max_norm: float = 0.0,
        follow: Follow = (),
        spare: int = 0,
    ):
        if nesterov and momentum <= 0:
            raise ValueError("nesterov needs a momentum")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(parameters, {**defaults, "dampening": 0}, max_norm, follow, spare)

    def rates(self, lr: float, momentum: float, step: int) -> list[float]:
        """lr, momentum, and two numbers that SGD does not use."""
        return [lr, momentum, 1.0, 1.0]

    def settings(self) -> dict[str, Any]:
        """Arguments of ops.flat_step that stay the same."""
        return {**super().settings(), "nesterov": self.param_groups[0]["nesterov"]}


class FlatAdam(FlatOptimizer):
    """torch.optim.Adam (weight decay as an L2 penalty) on a flat buffer; see FlatOptimizer."""

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float = 0.0,
        follow: Follow = (),
        spare: int = 0,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, defaults, max_norm, follow, spare)

    def _counted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"step": self._step, **state}

    def rates(self, lr: float, momentum: float, step: int) -> list[float]:
        """lr, β1, 1 − β1^t, 1 − β2^t."""
        beta2 = self.param_groups[0]["betas"][1]
        return [lr, momentum, 1 - momentum**step, 1 - beta2**step]

    def settings(self) -> dict[str, Any]:
        """Arguments of ops.flat_step that stay the same."""
        group = self.param_groups[0]
        return {**super().settings(), "beta2": group["betas"][1], "eps": group["eps"]}
