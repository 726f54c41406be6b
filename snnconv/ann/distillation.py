"""Training against a teacher: a trained network's outputs in place of the labels, or beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnconv.config import Preprocessing, Training
from snnconv.data.preprocessing import preprocess


@dataclass(frozen=True)
class Teacher:
    """A trained network, in evaluation mode, and how it takes its images."""

    model: nn.Module
    preprocessing: Preprocessing

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """Its outputs for augmented pixels."""
        images = preprocess(pixels, self.preprocessing)
        out: Tensor = self.model(images.contiguous(memory_format=torch.channels_last))
        return out


def training_loss(logits: Tensor, labels: Tensor, taught: Tensor | None, plan: Training) -> Tensor:
    """Mean loss of a batch.

    With d = ``distillation``, t = ``temperature``, s the softmax and H the cross-entropy of its two distributions::

        (1 - d) H(labels, s(logits))  +  d t^2 H(s(taught / t), s(logits / t))

    Label smoothing acts on the first term. The factor t^2 keeps the size of the gradients.

    Args:
        logits: (N, classes).
        labels: (N,).
        taught: The teacher's logits, (N, classes); None without one.
        plan: The recipe's training.

    Ref: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
    """
    share, t = plan.distillation, plan.temperature
    if taught is None or share == 0:
        return functional.cross_entropy(logits, labels, label_smoothing=plan.label_smoothing)
    against_teacher = t**2 * functional.cross_entropy(logits / t, (taught / t).softmax(1))
    if share == 1:
        return against_teacher
    against_labels = functional.cross_entropy(logits, labels, label_smoothing=plan.label_smoothing)
    return (1 - share) * against_labels + share * against_teacher
