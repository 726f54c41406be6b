"""Arithmetic on integers held in floats: which dtype keeps sums exact, and which kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


def exact_dtype(reach: int) -> torch.dtype:
    """Narrowest float in which integers up to ``reach`` in magnitude add up exactly in any order."""
    if reach < 2**24:
        return torch.float32
    if reach < 2**53:
        return torch.float64
    raise OverflowError(f"potentials up to {reach} do not fit into 53 bits")


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Keep torch to kernels that add integers exactly: direct or GEMM, in full float32.

    NNPACK's and cuDNN's Winograd algorithms, TF32 and bfloat16 products do not; whatever the user has
    set is restored.
    """
    onednn: Any = torch.backends.mkldnn
    settings = (onednn.conv, onednn.matmul, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    with ExitStack() as stack:
        stack.enter_context(torch.backends.nnpack.flags(enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        try:
            for setting in settings:
                setting.fp32_precision = "ieee"
            yield
        finally:
            for setting, precision in zip(settings, before, strict=True):
                setting.fp32_precision = precision
