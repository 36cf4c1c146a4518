"""The architectures a sweep may name. Adding one is one file such as `mlp.py` and one line here. Torch-free.

`contract.py` says what such a file gives; spaces, plans, training, pruning and model files ask here.
"""

from typing import TYPE_CHECKING

from kd.errors import InputError
from kd.models import dscnn, mlp, resnet1d, resnet1d_post, spectra, tcn
from kd.models.contract import Architecture

if TYPE_CHECKING:
    from kd.models.layers import Classifier

CLASSES = 180  # 30..209 BPM

ARCHITECTURES: dict[str, Architecture] = {
    "resnet1d": resnet1d.ARCHITECTURE,
    "mlp": mlp.ARCHITECTURE,
    "resnet1d-post": resnet1d_post.ARCHITECTURE,
    "tcn": tcn.ARCHITECTURE,
    "dscnn": dscnn.ARCHITECTURE,
    "spectra": spectra.ARCHITECTURE,
}


def architecture(arch: str) -> Architecture:
    """An architecture by its name; InputError for an unknown one."""
    if arch not in ARCHITECTURES:
        raise InputError(f"unknown architecture {arch!r}: use {' or '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch]


def build(
    arch: str,
    depth: int,
    width: int,
    *,
    channels: int = 1,
    samples: int = 200,
    classes: int = CLASSES,
    members: int = 1,
) -> "Classifier":
    """A fresh model, or a stack of `members` of them; InputError for an unknown architecture."""
    return architecture(arch).build(
        depth, width, channels=channels, samples=samples, classes=classes, members=members
    )
