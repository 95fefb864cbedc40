"""Outputs compared as classes: masks, labels, and scores of which the largest counts."""

from __future__ import annotations

import torch
from torch import Tensor


def agreement(eager: Tensor, candidate: Tensor) -> float:
    """The fraction of equal values, from 0 to 1. Of floating point scores, of equal classes."""
    equal = _classes(eager) == _classes(candidate)
    if not equal.numel():
        return 1.0
    return float(equal.to(torch.float64).mean())


def mean_iou(eager: Tensor, candidate: Tensor) -> float:
    """Intersection over union (Jaccard index), the mean over all classes that occur. 0 to 1."""
    expected = _classes(eager).reshape(-1)
    actual = _classes(candidate).reshape(-1)
    labels = torch.unique(torch.cat([expected, actual]))
    if not labels.numel():
        return 1.0
    ratios = []
    for label in labels:
        is_expected = expected == label
        is_actual = actual == label
        intersection = float((is_expected & is_actual).sum())
        union = float((is_expected | is_actual).sum())
        ratios.append(intersection / union)
    return sum(ratios) / len(ratios)


def _classes(value: Tensor) -> Tensor:
    """The class with the largest score, for floating point scores [N, C, ...] or [C]. Other values
    are classes already."""
    if not value.is_floating_point() or value.dim() < 1:
        return value
    if value.dtype.itemsize == 1:
        value = value.float()  # the 8-bit types have no argmax
    class_axis = 1 if value.dim() > 1 else 0
    return value.argmax(dim=class_axis)
