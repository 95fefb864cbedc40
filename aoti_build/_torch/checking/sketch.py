"""A small summary of a large tensor, by which another tensor can still be told from it.

Reference data with every output of a language model would be larger than its artifact. A sketch
holds, of a tensor of any size:

- sums over buckets, to which each value is added with a sign (the count sketch of Charikar, Chen
  and Farach-Colton, "Finding frequent items in data streams", 2002). It is linear, so the
  difference of two sketches is the sketch of the difference. The sum of its squares is an unbiased
  estimate of the squared error over *all* values. With 2**13 buckets its standard deviation is
  about 1 %, and one wrong value counts in full wherever it is;
- the sum of squares of each bucket, which limits how far the bucket may be off if each of its
  values is within its bounds;
- some values as they are, spread over the tensor, for the bounds on each value;
- digests of the bytes, and of where NaN and infinities are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.program.tensors import tensor_digest
from aoti_build.common.digests import digest_bytes
from aoti_build.common.json_object import JsonObject

BUCKETS = 1 << 13
SAMPLES = 1 << 13
# Values that are read at a time. A multiple of BUCKETS, so that each piece begins at bucket 0.
_PIECE = 1 << 22
_UINT32 = 0xFFFFFFFF  # the bits of a hash
# The chance that any bucket of a correct tensor counts as too far: one in a billion.
_FALSE_ALARM = 1e-9


@dataclass(frozen=True)
class Sketch:
    """The summary of a tensor with `dtype` and `shape`.

    `buckets` and `energy` are float64 tensors of shape [BUCKETS]: sums of the values with signs,
    and sums of their squares. NaN and infinities count as 0 there. `sample` has up to SAMPLES
    values. `rms` is the root mean square of the finite values. `digest` is of all bytes,
    `nonfinite` of where NaN and infinities are. Complex values count as two real ones.
    """

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
        flat = _flat_real(value)
        buckets = torch.zeros(BUCKETS, dtype=torch.float64)
        energy = torch.zeros(BUCKETS, dtype=torch.float64)
        finite_count = 0
        kinds = []
        for start in range(0, flat.numel(), _PIECE):
            piece = flat[start : start + _PIECE].to(torch.float64)
            finite = torch.isfinite(piece)
            kinds.append(digest_bytes(_kinds(piece, finite)))
            piece = torch.where(finite, piece, 0.0)
            signs = _signs(start, piece.numel())
            buckets += _bucket_sums(piece * signs)
            energy += _bucket_sums(piece.square())
            finite_count += int(finite.sum())
        rms = 0.0
        if finite_count:
            rms = float(energy.sum() / finite_count) ** 0.5
        return cls(
            dtype=value.dtype,
            shape=tuple(value.shape),
            buckets=buckets,
            energy=energy,
            sample=flat[_sample_positions(flat.numel())].clone(),
            rms=rms,
            digest=tensor_digest(value),
            nonfinite=digest_bytes("".join(kinds).encode()),
        )

    @property
    def count(self) -> int:
        """The number of real values."""
        return _real_count(self.shape, self.dtype)

    def rmse(self, reference: Sketch) -> float:
        """The estimated root mean square of the difference to `reference`, over all values."""
        difference = self.buckets - reference.buckets
        squared_error = difference.square().sum()
        mean = squared_error / max(1, self.count)
        return float(mean.sqrt())

    def count_far_buckets(
        self,
        candidate: Sketch,
        rtol: float,
        atol: float,
    ) -> int:
        """How many buckets differ from those of `candidate` by more than can be explained by values
        within `atol + rtol * |value|`.

        Let the i-th of n errors be at most b_i. Their sum with random signs exceeds
        sqrt(2 ln(2 / p) * sum of b_i**2) with a chance of at most p (Hoeffding, 1963). The root of
        that sum of squares is at most sqrt(n) * atol + rtol * sqrt(energy) (Minkowski).
        """
        values_per_bucket = -(-self.count // BUCKETS)  # rounded up
        spread = values_per_bucket**0.5 * atol + rtol * self.energy.sqrt()
        # The chance of a false alarm is shared by all buckets.
        factor = math.sqrt(2 * math.log(2 * BUCKETS / _FALSE_ALARM))
        distance = (self.buckets - candidate.buckets).abs()
        return int((distance > factor * spread).sum())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by the names that they have in a reference file."""
        return {
            "buckets": self.buckets,
            "energy": self.energy,
            "sample": self.sample,
        }

    def described(self) -> JsonObject:
        """All fields except the tensors, as JSON."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "shape": list(self.shape),
            "rms": self.rms,
            "digest": self.digest,
            "nonfinite": self.nonfinite,
        }

    @classmethod
    def parse(
        cls,
        described: Mapping[str, Any],
        buckets: Tensor,
        energy: Tensor,
        sample: Tensor,
    ) -> Sketch:
        """The sketch of `described()` and `tensors()`.

        Raises: KeyError, TypeError, AttributeError, ValueError: they do not belong together.
        """
        dtype = getattr(torch, described["dtype"])
        shape = tuple(map(int, described["shape"]))
        for sums in (buckets, energy):
            if sums.shape != (BUCKETS,) or sums.dtype != torch.float64:
                raise ValueError("buckets")
        if sample.shape != (_sample_count(shape, dtype),):
            raise ValueError("sample")
        return cls(
            dtype=dtype,
            shape=shape,
            buckets=buckets,
            energy=energy,
            sample=sample,
            rms=float(described["rms"]),
            digest=str(described["digest"]),
            nonfinite=str(described["nonfinite"]),
        )


def sketch_size(value: Tensor) -> int:
    """Bytes that the sketch of a tensor takes in a file."""
    bucket_bytes = 2 * BUCKETS * torch.float64.itemsize
    samples = _sample_count(tuple(value.shape), value.dtype)
    return bucket_bytes + samples * value.element_size()


def _real_count(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """The number of real values. A complex value is two."""
    parts = 2 if dtype.is_complex else 1
    return torch.Size(shape).numel() * parts


def _sample_count(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return min(SAMPLES, _real_count(shape, dtype))


def _flat_real(value: Tensor) -> Tensor:
    """The values in order, in one dimension. Of complex values the real and imaginary parts."""
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    return value.reshape(-1)


def _kinds(piece: Tensor, finite: Tensor) -> bytes:
    """One byte for each value: finite, NaN, +infinity or -infinity. Only the number of values if
    all are finite."""
    if bool(finite.all()):
        return str(piece.numel()).encode()
    infinities = torch.where(piece > 0, 2, 3)
    nonfinite = torch.where(torch.isnan(piece), 1, infinities)
    kinds = torch.where(finite, 0, nonfinite)
    return kinds.to(torch.uint8).numpy().tobytes()


def _signs(start: int, count: int) -> Tensor:
    """+1 or -1 for each position, from a hash of it (after Ellis' and Mueller's integer hashes)."""
    mixed = torch.arange(start, start + count, dtype=torch.int64) & _UINT32
    for multiplier in (0x7FEB352D, 0x46A7AC7D):
        mixed ^= mixed >> 16
        mixed = (mixed * multiplier) & _UINT32
    bit = (mixed >> 13) & 1
    signs = 1 - 2 * bit
    return signs.to(torch.float64)


def _bucket_sums(values: Tensor) -> Tensor:
    """Sums over the positions that are equal modulo BUCKETS."""
    padding = -values.numel() % BUCKETS
    padded = torch.nn.functional.pad(values, (0, padding))
    return padded.view(-1, BUCKETS).sum(0)


def _sample_positions(count: int) -> Tensor:
    """Positions of the sample, spread over `count` values: equal steps, each moved by a hash so
    that they share no period with the tensor's axes."""
    if count <= SAMPLES:
        return torch.arange(count)
    step = count // SAMPLES
    base = torch.arange(SAMPLES, dtype=torch.int64) * count // SAMPLES
    mixed = (base * 0x9E3779B1) & _UINT32
    offset = mixed % step
    return torch.clamp(base + offset, max=count - 1)
