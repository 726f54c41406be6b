"""Ranks of the right class against sorting, one image at a time."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from snnconv.data.ranking import ranks


@given(st.data(), st.integers(1, 9), st.integers(1, 5))
def test_ranks_are_places_in_a_stable_sort(data: st.DataObject, classes: int, count: int) -> None:
    draws = st.lists(st.integers(-2, 2), min_size=classes, max_size=classes)
    logits = [data.draw(draws) for _ in range(count)]
    labels = [data.draw(st.integers(0, classes - 1)) for _ in range(count)]
    found = ranks(torch.tensor(logits, dtype=torch.float64), torch.tensor(labels))
    orders = [sorted(range(classes), key=lambda c: (-row[c], c)) for row in logits]
    assert found.tolist() == [order.index(label) for order, label in zip(orders, labels, strict=True)]
    first = torch.tensor(logits, dtype=torch.float64).argmax(1)
    assert ((found == 0) == (first == torch.tensor(labels))).all()


def test_no_number_is_never_right() -> None:
    logits = torch.tensor([[float("nan")] * 7, [0.0, float("nan"), 1.0, 0.5, 0.4, 0.3, 0.2]])
    assert ranks(logits, torch.tensor([0, 2])).tolist() == [7, 1]
