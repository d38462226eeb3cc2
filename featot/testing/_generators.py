"""What a generator promises beside what a parametrization does: its samples are a function of the coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from featot.errors import UsageError
from featot.interfaces import FrozenGenerator, Generator, Parametrization, Size
from featot.noise import NoiseField
from featot.testing._parametrizations import check_parametrization
from featot.testing._tools import require, striped


def check_generator(generator: Generator, channels: Sequence[int] = (1, 3)) -> None:
    """Checks a generator: as a parametrization, and that its samples are a function of weights and coordinates."""
    check_parametrization(generator, channels)
    for count in channels:
        for check in GENERATOR_CHECKS.values():
            check(generator, count)


def _windows(param: Parametrization, channels: int) -> None:
    _, frozen = _trained(param, channels)
    require(frozen.channels == channels, f"channels is {frozen.channels}, not {channels}")
    for period in ((None, None), (48, 96), (45, 71)):
        _check_windows(frozen, NoiseField(3, period))


def _serialisation(param: Parametrization, channels: int) -> None:
    generator, frozen = _trained(param, channels)
    plane = _plane(frozen)
    again = type(generator)(generator.options)
    again.conditions = generator.conditions
    again.load_state_dict({name: value.clone() for name, value in generator.state_dict().items()}, plane.device)
    loaded = _plane(again.freeze())
    require(torch.allclose(loaded, plane, atol=1e-5), "what state_dict gives, loaded, makes another image")
    try:
        again.load_state_dict({}, plane.device)
    except UsageError:
        return
    raise AssertionError("load_state_dict must raise featot.UsageError for tensors that do not fit")


def _export(param: Parametrization, channels: int) -> None:
    _, frozen = _trained(param, channels)
    noise = [_inputs(frozen, NoiseField(3), scale, (2, 3)) for scale in range(len(frozen.margins()))]
    if frozen.conditions:
        noise.append(torch.full((frozen.conditions,), 1 / frozen.conditions))
    require(
        torch.allclose(frozen(*noise), _plane(frozen), atol=1e-4), "forward, given the noise, differs from render"
    )


def _freezing(param: Parametrization, channels: int) -> None:
    generator, frozen = _trained(param, channels)
    plane = _plane(frozen)
    with torch.no_grad():
        for theta in generator.parameters():
            theta.mul_(2)
    require(torch.equal(_plane(frozen), plane), "what was frozen changes with the parameters")


GENERATOR_CHECKS: Mapping[str, Callable[[Parametrization, int], None]] = {
    "windows": _windows,
    "serialisation": _serialisation,
    "export": _export,
    "freezing": _freezing,
}


def _trained(param: Parametrization, channels: int) -> tuple[Generator, FrozenGenerator]:
    """A generator that may be sampled, and its frozen self."""
    generator = cast(Generator, param)
    generator.initialize(striped(channels, (40, 32)), (64, 64), torch.Generator().manual_seed(5))
    generator.calibrate((64, 64), torch.Generator().manual_seed(6))
    return generator, generator.freeze()


def _check_windows(frozen: FrozenGenerator, noise: NoiseField) -> None:
    where = f"of a plane of period {noise.period}"
    whole, again = (_window(frozen, noise, (-20, -9), (70, 91)) for _ in range(2))
    require(torch.equal(whole, again), f"the same window {where} differs from call to call")
    part = _window(frozen, noise, (3, 1), (17, 30))
    require(torch.allclose(whole[:, :, 23:40, 10:40], part, atol=1e-4), f"a window {where} depends on its extent")
    turn = [side or 0 for side in noise.period]
    require(
        torch.allclose(_window(frozen, noise, (turn[0] + 3, 1 - turn[1]), (17, 30)), part, atol=1e-4), "no period"
    )
    other = _window(frozen, NoiseField(noise.seed + 1, noise.period), (3, 1), (17, 30))
    require(not torch.allclose(other, part, atol=1e-4), "another seed gives the same image")


def _plane(frozen: FrozenGenerator) -> Tensor:
    return _window(frozen, NoiseField(3), (0, 0), (2 * frozen.stride, 3 * frozen.stride))


def _window(frozen: FrozenGenerator, noise: NoiseField, at: Size, size: Size) -> Tensor:
    image = frozen.render(noise, range(at[0], at[0] + size[0]), range(at[1], at[1] + size[1]))
    expected = (1, frozen.channels, *size)
    require(tuple(image.shape) == expected, f"render must give {expected}, got {tuple(image.shape)}")
    require(not image.requires_grad and image.isfinite().all(), "render must give finite pixels, without gradients")
    return image


def _inputs(frozen: FrozenGenerator, noise: NoiseField, scale: int, cells: Size) -> Tensor:
    channels, margin = frozen.margins()[scale]
    sides = [count * frozen.stride // 2**scale for count in cells]
    rows, columns = (range(-margin, side + margin) for side in sides)
    return noise.uniform(scale, channels, rows, columns)
