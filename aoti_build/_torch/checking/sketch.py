"""A large tensor in little room, by which it can still be told from another one.

Reference data that kept every output of a language model whole would be larger than its artifact. A
sketch keeps, of a tensor of any size:

- sums over buckets, every value added with a sign of its own (the count sketch of Charikar, Chen
  and Farach-Colton, "Finding frequent items in data streams", 2002). It is linear, so the
  difference of two sketches is the sketch of the difference, and the sum of its squares is an
  unbiased estimate of the squared error over *all* values. With 2**13 buckets its standard
  deviation is about 1 %, and one wrong value anywhere counts in full. The sum of squares of each
  bucket says how far it may be off if each of its values is within its bounds;
- some values as they are, spread over the tensor, for the bounds that hold value by value;
- digests of the bytes, and of where NaN and infinities are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.program.graph import tensor_digest
from aoti_build.common.digests import digest_bytes

BUCKETS = 1 << 13
SAMPLES = 1 << 13
_PIECE = 1 << 22  # values at a time; a multiple of the buckets
_SURE = math.sqrt(2 * math.log(2 * BUCKETS / 1e-9))  # a false alarm in any bucket: one in a billion


@dataclass(frozen=True)
class Sketch:
    """Of a tensor with `dtype` and `shape`: the float64 sums of its `buckets`, and the `energy` of
    each (the sum of its squares), a `sample` of its values, the root mean square (`rms`) of the
    finite ones, the `digest` of all, and one of where the others are (`nonfinite`)."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    buckets: Tensor
    energy: Tensor
    sample: Tensor
    rms: float
    digest: str
    nonfinite: str

    @classmethod
    def of(cls, value: Tensor) -> Sketch:
        value = value.detach().cpu().contiguous()
        flat = _real(value)
        buckets, energy = torch.zeros(2, BUCKETS, dtype=torch.float64)
        finite_count = 0
        kinds = []
        for start in range(0, flat.numel(), _PIECE):
            piece = flat[start : start + _PIECE].to(torch.float64)
            finite = torch.isfinite(piece)
            kinds.append(digest_bytes(_kinds(piece, finite)))
            piece = torch.where(finite, piece, 0.0)
            energy += _summed(piece.square())
            finite_count += int(finite.sum())
            buckets += _summed(piece * _signs(start, piece.numel()))
        rms = float(energy.sum() / finite_count) ** 0.5 if finite_count else 0.0
        sample = flat[_places(flat.numel())].clone()
        nonfinite = digest_bytes("".join(kinds).encode())
        return cls(
            value.dtype,
            tuple(value.shape),
            buckets,
            energy,
            sample,
            rms,
            tensor_digest(value),
            nonfinite,
        )

    def rmse(self, other: Sketch) -> float:
        """The estimated root mean square of the difference to `other`, over all values of both."""
        count = max(1, _count(self.shape, self.dtype))
        return float(((self.buckets - other.buckets).square().sum() / count).sqrt())

    def far(self, other: Sketch, rtol: float, atol: float) -> int:
        """How many buckets differ from those of `other` by more than values within atol + rtol *
        |value| explain.

        The sum of n errors with random signs, the i-th at most b_i, exceeds sqrt(2 ln(2 / p) * sum
        of b_i squared) with a chance of p at most (Hoeffding, 1963), and the root of that sum is at
        most sqrt(n) * atol + rtol * sqrt(energy) (Minkowski).
        """
        count = -(-_count(self.shape, self.dtype) // BUCKETS)
        spread = count**0.5 * atol + rtol * self.energy.sqrt()
        return int(((self.buckets - other.buckets).abs() > _SURE * spread).sum())

    def described(self) -> dict[str, Any]:
        """All but the tensors, as JSON."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "shape": list(self.shape),
            "rms": self.rms,
            "digest": self.digest,
            "nonfinite": self.nonfinite,
        }

    @classmethod
    def parse(
        cls, described: Mapping[str, Any], buckets: Tensor, energy: Tensor, sample: Tensor
    ) -> Sketch:
        """Raises KeyError, TypeError, AttributeError or ValueError unless they belong together."""
        dtype, shape = (
            getattr(torch, described["dtype"]),
            tuple(int(size) for size in described["shape"]),
        )
        if any(
            part.shape != (BUCKETS,) or part.dtype != torch.float64 for part in (buckets, energy)
        ):
            raise ValueError("buckets")
        if sample.shape != (min(SAMPLES, _count(shape, dtype)),):
            raise ValueError("sample")
        texts = str(described["digest"]), str(described["nonfinite"])
        return cls(dtype, shape, buckets, energy, sample, float(described["rms"]), *texts)


def sketch_size(value: Tensor) -> int:
    """Bytes that the sketch of a tensor takes in a file."""
    return (
        2 * BUCKETS * 8
        + min(SAMPLES, _count(tuple(value.shape), value.dtype)) * value.element_size()
    )


def _count(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * (2 if dtype.is_complex else 1)


def _real(value: Tensor) -> Tensor:
    """Its values in order; of complex ones the real and imaginary parts."""
    return (torch.view_as_real(value.resolve_conj()) if value.is_complex() else value).reshape(-1)


def _kinds(piece: Tensor, finite: Tensor) -> bytes:
    """Of every value whether it is finite, NaN, or which infinity, a byte each."""
    if bool(finite.all()):
        return str(piece.numel()).encode()
    kinds = torch.where(finite, 0, torch.where(torch.isnan(piece), 1, torch.where(piece > 0, 2, 3)))
    return kinds.to(torch.uint8).numpy().tobytes()


def _signs(start: int, count: int) -> Tensor:
    """+1 or -1 for each position, from a hash of it (after Ellis' and Mueller's integer hashes)."""
    mixed = torch.arange(start, start + count, dtype=torch.int64) & 0xFFFFFFFF
    for multiplier in (0x7FEB352D, 0x46A7AC7D):
        mixed = ((mixed ^ (mixed >> 16)) * multiplier) & 0xFFFFFFFF
    return (1 - 2 * ((mixed >> 13) & 1)).to(torch.float64)


def _summed(values: Tensor) -> Tensor:
    """Sums over the positions that are equal modulo the number of buckets."""
    missing = -values.numel() % BUCKETS
    return torch.nn.functional.pad(values, (0, missing)).view(-1, BUCKETS).sum(0)


def _places(count: int) -> Tensor:
    """Positions of the sample, spread over `count` values: equal steps and a step aside by hash."""
    if count <= SAMPLES:
        return torch.arange(count)
    wide = count // SAMPLES
    base = torch.arange(SAMPLES, dtype=torch.int64) * count // SAMPLES
    aside = ((base * 0x9E3779B1) & 0xFFFFFFFF) % wide
    return torch.clamp(base + aside, max=count - 1)
