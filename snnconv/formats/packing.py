"""Weight codes packed into bytes: two bits a code where all lie in -1..1, one byte else."""

from __future__ import annotations

import torch
from torch import Tensor

from snnconv.errors import FormatError

CODES_PER_BYTE = 4


def pack_ternary(codes: Tensor) -> Tensor:
    """Pack int8 codes in -1..1, four a byte, lowest bits first; -1, 0, +1 are stored as 3, 0, 1.

    Returns:
        uint8, one dimension of ceil(n / 4) bytes; unused bits are 0.
    """
    bits = (codes.flatten().to(torch.int16) & 3).to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -len(bits) % CODES_PER_BYTE)).reshape(-1, CODES_PER_BYTE)
    return bits[:, 0] | bits[:, 1] << 2 | bits[:, 2] << 4 | bits[:, 3] << 6


def unpack_ternary(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Codes packed by ``pack_ternary``.

    Raises:
        FormatError: the bytes do not fit the shape, or hold the unused pattern 2.
    """
    number = int(torch.Size(shape).numel())
    if packed.dtype != torch.uint8 or packed.shape != (-(-number // CODES_PER_BYTE),):
        raise FormatError(f"{tuple(packed.shape)} {packed.dtype} do not hold {number} packed ternary codes")
    bits = torch.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], dim=1).flatten()
    if bool((bits == 2).any()):
        raise FormatError("a packed weight holds the bit pattern 10, which is no ternary code")
    if bool(bits[number:].any()):
        raise FormatError("a packed weight has bits set behind its last code")
    return torch.where(bits == 3, -1, bits.to(torch.int8)).to(torch.int8)[:number].reshape(shape)
