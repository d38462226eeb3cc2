"""What a parametrization promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from featot.interfaces import Boundary, Parametrization, Size
from featot.testing._tools import devices, gradients, require, require_average, striped


def check_parametrization(param: Parametrization, channels: Sequence[int] = (1, 3)) -> None:
    """Checks a parametrization on exemplars of each of these numbers of ``channels``."""
    for count in channels:
        for check in PARAMETRIZATION_CHECKS.values():
            check(param, count)


def _boundary(param: Parametrization, channels: int) -> None:
    right = param.boundary in get_args(Boundary)
    require(right, f"boundary is {param.boundary!r}, expected 'valid' or 'periodic'")


def _shapes(param: Parametrization, channels: int) -> None:
    for size in ((33, 47), (32, 32)):
        _image(param, channels, size)


def _gradients(param: Parametrization, channels: int) -> None:
    image = _image(param, channels, (33, 47))
    found = gradients(image.square().sum(), param.parameters(), "the image")
    require(any(gradient.any() for gradient in found), "the image does not depend on the parameters")
    if param.linear:
        row = gradients(image[0, 0, 16, 23], param.parameters(), "the image")
        flat = torch.cat([gradient.flatten() for gradient in row])
        require_average(flat, "the parametrization says linear = True, but a pixel")


def _determinism(param: Parametrization, channels: int) -> None:
    images = []
    for seed in (1, 2):  # of the global random numbers, which must not matter
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            images.append(_image(param, channels, (32, 32)).detach().clone())
    require(torch.equal(*images), "equal generators must give equal images")


def _resizing(param: Parametrization, channels: int) -> None:
    _image(param, channels, (32, 32))
    try:
        param.resize((35, 61))
    except TypeError:
        require(not param.resizable, "resizable is True, but resize raises TypeError")
        return
    require(param.resizable, "resize works, but resizable is False")
    _check_image(param, channels, (35, 61), torch.Generator().manual_seed(5))


def _dtypes_and_devices(param: Parametrization, channels: int) -> None:
    for device in devices():
        exemplar = striped(channels, (40, 32)).to(device)
        generator = torch.Generator().manual_seed(5)
        param.initialize(exemplar, (32, 32), generator)
        image = param((32, 32), generator)
        right = (image.dtype, image.device) == (exemplar.dtype, exemplar.device)
        got = f"got {image.dtype} on {image.device} for {exemplar.dtype} on {exemplar.device}"
        require(right, f"the image must have the exemplar's dtype and device, {got}")


PARAMETRIZATION_CHECKS: Mapping[str, Callable[[Parametrization, int], None]] = {
    "boundary": _boundary,
    "shapes": _shapes,
    "determinism": _determinism,
    "gradients": _gradients,
    "resizing": _resizing,
    "dtypes and devices": _dtypes_and_devices,
}


def _image(param: Parametrization, channels: int, size: Size) -> Tensor:
    """The image that it makes first, at ``size``."""
    generator = torch.Generator().manual_seed(5)
    param.initialize(striped(channels, (40, 32)), size, generator)
    return _check_image(param, channels, size, generator)


def _check_image(param: Parametrization, channels: int, size: Size, generator: torch.Generator) -> Tensor:
    image, parameters = param(size, generator), param.parameters()
    expected = (len(image), channels, *size)
    require(image.shape == expected, f"expected an image (b, c, h, w) = {expected}, got {tuple(image.shape)}")
    require(image.is_floating_point() and image.isfinite().all(), "the image must be floating and finite")
    leaves = parameters and all(theta.is_leaf and theta.requires_grad for theta in parameters)
    require(leaves, "parameters must be leaf tensors that require gradients, at least one")
    require(image.requires_grad, "the image must be differentiable")
    return image
