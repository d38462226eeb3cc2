"""The built-in plugins: registered through the same hooks and the same entry-point group as anyone's.

Targets are named, not imported, so that listing the plugins loads no torch.
"""

from __future__ import annotations

from featot.hookspecs import hookimpl
from featot.plugins import Plugin
from featot_plugins.options import (
    ImageOptions,
    MSOTOptions,
    OTLossOptions,
    PatchesOptions,
    PyramidOptions,
    SlicedOptions,
    TexnetLiteOptions,
    TexnetOptions,
)


@hookimpl
def featot_register_extractors() -> list[Plugin]:
    return [
        Plugin("patches", "featot_plugins.patches:Patches", "square patches at one scale", PatchesOptions),
        Plugin(
            "pyramid",
            "featot_plugins.pyramid:Pyramid",
            "patches at every scale of a Gaussian pyramid, the paper's multiscale features",
            PyramidOptions,
        ),
    ]


@hookimpl
def featot_register_parametrizations() -> list[Plugin]:
    return [
        Plugin("image", "featot_plugins.image:Image", "free pixels on a torus: the result tiles", ImageOptions),
        Plugin(
            "texnet", "featot_plugins.texnet:Texnet", "a multiscale generator network, the paper's", TexnetOptions
        ),
        Plugin(
            "texnet_lite",
            "featot_plugins.texnet:TexnetLite",
            "a generator network of our own, with fewer operations",
            TexnetLiteOptions,
        ),
    ]


@hookimpl
def featot_register_losses() -> list[Plugin]:
    return [
        Plugin("ot", "featot_plugins.ot:OTLoss", "semi-dual optimal transport, ψ as discriminator", OTLossOptions),
        Plugin(
            "sliced",
            "featot_plugins.sliced:SlicedLoss",
            "sliced optimal transport: contrast and grain, beside 'ot'",
            SlicedOptions,
        ),
    ]


@hookimpl
def featot_register_metrics() -> list[Plugin]:
    return [Plugin("msot", "featot_plugins.msot:MSOT", "multiscale optimal transport distance", MSOTOptions)]
