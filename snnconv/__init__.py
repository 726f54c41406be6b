"""snnconv: quantized neural networks to spiking ones, with proof.

    import snnconv
    network = snnconv.convert(model, example_input, preprocessing)   # layer by layer, or refused by name
    parity = snnconv.verify(model, network, images)              # every unit's count = the ANN's code
    measured = snnconv.simulate(network, images, noise_ratio=0.1)
    print(measured.accuracy, measured.spikes_per_image, measured.sops_per_image["synops"])
    snnconv.save(network, "network.safetensors")
    network = snnconv.load("network.safetensors")

The names below are loaded when first used; ``import snnconv`` alone imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snnconv.ann.brevitas import from_brevitas
    from snnconv.ann.quantizers import KBQuantizer
    from snnconv.ann.weights import TernaryWeight
    from snnconv.api import load, load_model, save, simulate, verify
    from snnconv.config import Calibration, Preprocessing
    from snnconv.conversion.convert import convert
    from snnconv.data.images import Images, load_images
    from snnconv.errors import SnnconvError
    from snnconv.formats.nir import to_nir
    from snnconv.formats.onnx import to_onnx
    from snnconv.formats.spikingjelly import to_spikingjelly
    from snnconv.quantization.quantize import quantize
    from snnconv.snn.network import SpikingNetwork

__all__ = [
    "Calibration",
    "Images",
    "KBQuantizer",
    "Preprocessing",
    "SnnconvError",
    "SpikingNetwork",
    "TernaryWeight",
    "convert",
    "from_brevitas",
    "load",
    "load_images",
    "load_model",
    "quantize",
    "save",
    "simulate",
    "to_nir",
    "to_onnx",
    "to_spikingjelly",
    "verify",
]

_HOMES = {
    "Calibration": "snnconv.config",
    "Images": "snnconv.data.images",
    "KBQuantizer": "snnconv.ann.quantizers",
    "Preprocessing": "snnconv.config",
    "SnnconvError": "snnconv.errors",
    "SpikingNetwork": "snnconv.snn.network",
    "TernaryWeight": "snnconv.ann.weights",
    "convert": "snnconv.conversion.convert",
    "from_brevitas": "snnconv.ann.brevitas",
    "load": "snnconv.api",
    "load_images": "snnconv.data.images",
    "load_model": "snnconv.api",
    "quantize": "snnconv.quantization.quantize",
    "save": "snnconv.api",
    "simulate": "snnconv.api",
    "to_nir": "snnconv.formats.nir",
    "to_onnx": "snnconv.formats.onnx",
    "to_spikingjelly": "snnconv.formats.spikingjelly",
    "verify": "snnconv.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'snnconv' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
