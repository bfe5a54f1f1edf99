"""Replace torch.nn.GRU by crrl.nn.GRU inside a finished model, and back."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import nn

from crrl.nn.gru import GRU


class Swap(NamedTuple):
    """What accelerate or decelerate did with one GRU.

    Attributes:
        name: its qualified name in the model; "" for the model itself.
        swapped: whether its class was changed.
        reason: the backend that serves it, and why; or why it was left as it is.
    """

    name: str
    swapped: bool
    reason: str


def accelerate(module: nn.Module) -> list[Swap]:
    """Make every torch.nn.GRU inside `module`, and `module` itself if it is one, a crrl.nn.GRU; in place.

    Each stays the same object, and only its class changes: parameters (so an optimizer keeps working), hooks, training
    flag, device and dtype remain. A GRU shared under several names stays shared, and is reported by the first.
    Other classes derived from torch.nn.GRU are left alone, and so are parametrized GRUs.

    Returns:
        One record for every torch.nn.GRU found, in the order of module.named_modules().
    """
    return [_swap(name, gru) for name, gru in module.named_modules() if isinstance(gru, nn.GRU)]


def _swap(name: str, gru: nn.GRU) -> Swap:
    if isinstance(gru, GRU):
        return Swap(name, False, f"it is a crrl.nn.{type(gru).__name__} already")
    if nn.utils.parametrize.is_parametrized(gru):
        return Swap(name, False, "it is parametrized: accelerate first, then register the parametrization")
    if type(gru) is not nn.GRU:
        return Swap(name, False, f"{type(gru).__qualname__} is a class of its own: derive it from crrl.nn.GRU")
    gru.__class__ = GRU
    backend, reason = cast(GRU, gru).backend()
    return Swap(name, True, f"{backend}: {reason}")


def decelerate(module: nn.Module) -> list[Swap]:
    """Undo `accelerate`: make every crrl.nn.GRU inside `module` a torch.nn.GRU; in place, by changing its class.

    Use it for tools that know torch.nn.GRU by its class, such as torch.ao.quantization. Derived classes, such as
    StepwiseBiGRU, compute something else and are left alone, and so are parametrized GRUs.

    Returns:
        One record for every crrl.nn.GRU found, in the order of module.named_modules().
    """
    return [_swap_back(name, gru) for name, gru in module.named_modules() if isinstance(gru, GRU)]


def _swap_back(name: str, gru: GRU) -> Swap:
    if nn.utils.parametrize.is_parametrized(gru):
        return Swap(name, False, "it is parametrized: remove the parametrization first")
    if type(gru) is not GRU:
        return Swap(name, False, f"{type(gru).__qualname__} computes what torch.nn.GRU does not")
    gru.__class__ = nn.GRU  # type: ignore[assignment]
    return Swap(name, True, "torch: a torch.nn.GRU")
