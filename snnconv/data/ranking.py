"""Where the right class stands among the logits: top-1 and top-5 alike."""

from __future__ import annotations

import torch
from torch import Tensor

TOP = 5


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the right one: those with a larger logit, or an equal one and a smaller number.

    An image is right among the top n where its rank is below n; rank 0 is what ``argmax`` takes. Where the right
    class's logit is no number, all classes come before it; so do the others whose logit is none.

    Args:
        logits: (N, classes).
        labels: int64, (N,), on the same device.

    Returns:
        int64, (N,).
    """
    own, label = logits.gather(1, labels.unsqueeze(1)), labels.unsqueeze(1)
    classes = torch.arange(logits.shape[1], device=logits.device)
    itself_or_after = (logits < own) | ((logits == own) & (classes >= label))
    return logits.shape[1] - itself_or_after.sum(1)
