"""Counter-based random numbers: pure functions of (key, image index, position).

A generator with hidden state makes a result depend on batch size, on order and on where a run was
resumed. Here number j of image i under a key is a hash of (key, i, j), so it depends on nothing
else, on any device. The hash is SplitMix64's finaliser (Steele, Lea, Flood, *Fast splittable
pseudorandom number generators*, OOPSLA 2014) in wrapping int64 arithmetic.
"""

import hashlib
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB

_BLOCK = 2**15


def key(seed: int, *purpose: str | int) -> int:
    """Derive an int64 key from a seed and what the numbers are for.

    Args:
        seed: Any integer.
        purpose: Names and counters, e.g. ``"crop", epoch``. Different purposes give unrelated
            numbers.
    """
    text = "\0".join([str(int(seed)), *map(str, purpose)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(key: int, index: Int64[Tensor, " n"], count: int) -> Float32[Tensor, "n count"]:
    """Independent uniform numbers in [0, 1), a row for each image index.

    Args:
        key: From `key`.
        index: Image indices; the numbers are made on their device.
        count: Numbers an image.
    """
    numbers = torch.empty(len(index), count, device=index.device)
    for columns in _blocks(index, count):
        bits = _bits(key, index, columns)
        numbers[:, columns] = (bits >> 8).bitwise_and_(0xFFFFFF).float().mul_(2.0**-24)
    return numbers


def normal(key: int, index: Int64[Tensor, " n"], count: int) -> Float32[Tensor, "n count"]:
    """Independent standard normal numbers, a row for each image index (Box-Muller).

    Args:
        key: From `key`.
        index: Image indices; the numbers are made on their device.
        count: Numbers an image.
    """
    half = (count + 1) // 2
    numbers = torch.empty(len(index), 2, half, device=index.device)
    for columns in _blocks(index, half):
        bits = _bits(key, index, columns)
        # One hash feeds both uniforms: bits 8..31 and 32..55. The radius' uniform lies in (0, 1].
        radius = (bits >> 8).bitwise_and_(0xFFFFFF).add_(1).float()
        radius = radius.mul_(2.0**-24).log_().mul_(-2).sqrt_()
        angle = (bits >> 32).bitwise_and_(0xFFFFFF).float().mul_(2 * math.pi * 2.0**-24)
        numbers[:, 0, columns] = radius * angle.cos()
        numbers[:, 1, columns] = radius.mul_(angle.sin_())
    return numbers.view(-1, 2 * half)[:, :count]


def permutation(key: int, count: int) -> Int64[Tensor, " count"]:
    """A random order of ``range(count)``."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(key & (2**63 - 1)))


def _blocks(index: Tensor, count: int) -> Iterator[slice]:
    """Columns to make at a time: on a CPU a dozen passes over them are to stay in its cache."""
    step = max(1, _BLOCK // max(1, len(index))) if index.device.type == "cpu" else max(1, count)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _bits(key: int, index: Tensor, columns: slice) -> Int64[Tensor, "n columns"]:
    rows = _mix(index.to(torch.int64) * _GOLDEN + key)[:, None]  # [n, 1]
    numbers = torch.arange(columns.start + 1, columns.stop + 1, device=index.device)
    return _mix(rows + numbers * _GOLDEN)  # [n, columns]


def _mix(z: Tensor) -> Tensor:
    """Scramble in place."""
    z = z.bitwise_xor_(_shift(z, 30)).mul_(_MIX_1)
    z = z.bitwise_xor_(_shift(z, 27)).mul_(_MIX_2)
    return z.bitwise_xor_(_shift(z, 31))


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; int64's own is arithmetic."""
    return (z >> bits).bitwise_and_((1 << 64 - bits) - 1)
