"""What a loss promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from featot.interfaces import Loss
from featot.ot import Measure
from featot.terms import LossFactory
from featot.testing._tools import devices, gradient, require

_FAR = 3  # the shift of points that are far from the target


def check_loss(factory: LossFactory) -> None:
    """Checks a loss, given a function ``(target, generator) -> Loss``: the class with its options filled in."""
    for check in LOSS_CHECKS.values():
        check(factory)


def _values(factory: LossFactory) -> None:
    for shift in (0, _FAR):
        loss, points = _made(factory), _points(shift)
        result = loss(points)
        shape = tuple(result.value.shape)
        require(shape == () and result.value.isfinite(), f"the value must be a finite scalar, got shape {shape}")
        curvature = points[:, 0] * 0 if result.curvature is None else result.curvature
        right = curvature.shape == points.shape[:1] and ((curvature >= 0) & curvature.isfinite()).all()
        require(right, f"the curvature must be (n,), finite and >= 0, got shape {tuple(curvature.shape)}")


def _gradients(factory: LossFactory) -> None:
    for shift in (0, _FAR):
        loss, points = _made(factory), _points(shift)
        found = gradient(loss(points).value, points, "the value")
        require(shift == 0 or found.any(), "the gradient is zero for points far from the target")


def _improvement(factory: LossFactory) -> None:
    for shift in (0, _FAR):
        loss, points = _made(factory), _points(shift)
        loss(points)
        first, second = (float(loss(points, improve=False).value.detach()) for _ in range(2))
        same = math.isclose(first, second, rel_tol=1e-4)
        require(same, f"improve=False changed the value: {first} to {second}")


def _distance(factory: LossFactory) -> None:
    near, far = (float(_made(factory)(_points(shift)).value.detach()) for shift in (0, _FAR))
    require(near < far, f"points of the target cost {near}, points far from it only {far}")


def _determinism(factory: LossFactory) -> None:
    first, second = (float(_made(factory)(_points(_FAR)).value.detach()) for _ in range(2))
    require(math.isclose(first, second, rel_tol=1e-4), "equal generators must give equal values")


def _serialisation(factory: LossFactory) -> None:
    loss, points = _made(factory), _points(_FAR)
    for _ in range(3):
        loss(points)
    state = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    wanted = float(loss(points, improve=False).value.detach())
    again = _made(factory)
    again.load_state_dict(state)
    found = float(again(points, improve=False).value.detach())
    same = math.isclose(found, wanted, rel_tol=1e-4)
    require(same, f"what state_dict gives, loaded, makes another value: {found}, not {wanted}")


def _dtypes_and_devices(factory: LossFactory) -> None:
    for device in devices():
        value = _made(factory, device)(_points(_FAR, device)).value
        right = (value.dtype, value.device) == (torch.float32, device)
        require(right, f"the value must have the points' dtype and device, got {value.dtype} on {value.device}")


LOSS_CHECKS: Mapping[str, Callable[[LossFactory], None]] = {
    "values": _values,
    "gradients": _gradients,
    "improvement": _improvement,
    "distance": _distance,
    "determinism": _determinism,
    "serialisation": _serialisation,
    "dtypes and devices": _dtypes_and_devices,
}


def _made(factory: LossFactory, device: torch.device | None = None) -> Loss:
    return factory(Measure(_cloud().to(device)), torch.Generator().manual_seed(0))


def _points(shift: int, device: torch.device | None = None) -> Tensor:
    """77 of the target's points, moved ``shift`` away."""
    return (_cloud()[:77] + shift).to(device).requires_grad_()


def _cloud() -> Tensor:
    return torch.rand(200, 6, generator=torch.Generator().manual_seed(0))
