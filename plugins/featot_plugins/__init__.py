"""The built-in plugins: registered through the same hooks and the same entry-point group as anyone's.

Targets are named, not imported, so that listing the plugins loads no torch.
"""

from __future__ import annotations

from featot.hookspecs import hookimpl
from featot.plugins import Plugin
from featot_plugins.options import (
    CopyingOptions,
    ImageOptions,
    MSOTOptions,
    OTLossOptions,
    PatchesOptions,
    PyramidOptions,
    RandomConvOptions,
    SIFIDOptions,
    SlicedOptions,
    SteerableOptions,
    SWDOptions,
    TexnetLiteOptions,
    TexnetOptions,
    VGGMetricOptions,
    VGGOptions,
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
        Plugin("vgg", "featot_plugins.vgg:VGG", "responses of VGG-19, the features of Gatys et al.", VGGOptions),
        Plugin(
            "random_conv",
            "featot_plugins.random_conv:RandomConv",
            "random filters at every scale: deep features without a download",
            RandomConvOptions,
        ),
        Plugin(
            "steerable",
            "featot_plugins.steerable:Steerable",
            "oriented derivatives at every scale; beside the pyramid it sharpens edges and grain",
            SteerableOptions,
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
            "a generator network of our own, that learns from coarse to fine",
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
        Plugin("gram", "featot_plugins.gram:GramLoss", "Gatys' Gram matrices: second moments of the features"),
        Plugin(
            "moments",
            "featot_plugins.moments:MomentsLoss",
            "Bures-Wasserstein distance of mean and covariance, a cheap baseline",
        ),
    ]


@hookimpl
def featot_register_metrics() -> list[Plugin]:
    return [
        Plugin("msot", "featot_plugins.msot:MSOT", "multiscale optimal transport distance", MSOTOptions),
        Plugin(
            "vgg", "featot_plugins.gram_distance:GramDistance", "distance of VGG's Gram matrices", VGGMetricOptions
        ),
        Plugin("sifid", "featot_plugins.sifid:SIFID", "Fréchet distance of Inception's first features", SIFIDOptions),
        Plugin("swd", "featot_plugins.swd:SWD", "multiscale sliced Wasserstein distance of patches", SWDOptions),
        Plugin("copy", "featot_plugins.copying:Copying", "share that is copied verbatim", CopyingOptions),
        Plugin("sharp", "featot_plugins.pixel_metrics:Sharpness", "finest detail over the exemplar's"),
        Plugin("tileability", "featot_plugins.pixel_metrics:Tileability", "jump across the border over that inside"),
    ]
