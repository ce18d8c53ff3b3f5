"""Counter-based random numbers: pure functions of (key, image index, position).

With a stateful generator, a result depends on the batch size, on the order of the images and on
where a run was resumed. Here random number j of image i under a key is a hash of (key, i, j) and
depends on nothing else, on any device. The hash is SplitMix64's finaliser (Steele, Lea, Flood,
*Fast splittable pseudorandom number generators*, OOPSLA 2014) in wrapping int64 arithmetic.

```python
crop_key = key(seed, "crop", epoch)
values = uniform(crop_key, torch.tensor([7, 3]), 4)  # [2, 4]: row 0 belongs to image 7
```
"""

import hashlib
import math
from collections.abc import Iterator
from typing import overload

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB

_BLOCK = 2**15


class MovingKey:
    """A key that lies on a device and can change, together with all keys derived from it.

    A CUDA graph repeats the operations that it has seen with the tensors that it has seen. A number
    in Python would stay what it was; this key may be another one in each replay. What is derived
    from it must have been derived before the graph is captured.

    ```python
    moving = MovingKey(key(0, "epoch", 0), device)
    views = simclr_views(images, settings, key=key(moving, "views"), index=index)
    moving.change(key(0, "epoch", 1))
    ```

    Args:
        value: The key, an int64.
        device: Where it lies.

    Attributes:
        value: The same as a tensor.
    """

    def __init__(self, value: int, device: torch.device):
        self.value: Int64[Tensor, ""] = torch.full((), value, dtype=torch.int64, device=device)
        self._number = value
        self._derived: dict[tuple[str | int, ...], MovingKey] = {}

    def derived(self, *purpose: str | int) -> "MovingKey":
        """The key that `key` derives from the present one for a purpose.

        Raises:
            RuntimeError: it is derived for the first time while a graph is captured, which would
                repeat its present value.
        """
        if purpose not in self._derived:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(f"derive the key for {purpose} before the graph is captured.")
            value = key(self._number, *purpose)
            self._derived[purpose] = MovingKey(value, self.value.device)
        return self._derived[purpose]

    def __mod__(self, count: int) -> Int64[Tensor, ""]:
        return self.value % count

    def change(self, value: int) -> None:
        """Become another key, in place, as do all that were derived."""
        self._number = value
        self.value.fill_(value)
        for purpose, other in self._derived.items():
            other.change(key(value, *purpose))


Key = int | MovingKey


@overload
def key(seed: int, *purpose: str | int) -> int: ...
@overload
def key(seed: MovingKey, *purpose: str | int) -> MovingKey: ...
def key(seed: Key, *purpose: str | int) -> Key:
    """Derive an int64 key from a seed and the purpose of the random numbers.

    ```python
    key(0, "crop", 3)  # the crops of epoch 3 under seed 0
    ```

    Args:
        seed: Any integer, or a key that can change.
        purpose: Names and counters, e.g. ``"crop", epoch``. Different purposes give independent
            random numbers.
    """
    if isinstance(seed, MovingKey):
        return seed.derived(*purpose)
    text = "\0".join([str(int(seed)), *map(str, purpose)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(
    key: Key | Tensor, index: Int64[Tensor, " n"], count: int
) -> Float32[Tensor, "n count"]:
    """Independent uniform random numbers in [0, 1), one row per image index.

    ```python
    uniform(key(0, "crop"), torch.arange(128), 2)  # [128, 2]
    ```

    Args:
        key: From `key`; or a tensor of one such number. It lies on the device of the indices.
        index: Image indices. The result is on their device.
        count: Random numbers per image.
    """
    blocks = [*_blocks(index, count)]
    if len(blocks) == 1:
        return _fractions(_bits(key, index, blocks[0]))
    values = torch.empty(len(index), count, device=index.device)
    for columns in blocks:
        values[:, columns] = _fractions(_bits(key, index, columns))
    return values


def normal(key: Key | Tensor, index: Int64[Tensor, " n"], count: int) -> Float32[Tensor, "n count"]:
    """Independent standard normal random numbers, one row per image index (Box-Muller).

    ```python
    normal(key(0, "noise"), torch.arange(128), 3 * 32 * 32).view(-1, 3, 32, 32)
    ```

    Args:
        key: From `key`; or a tensor of one such number. It lies on the device of the indices.
        index: Image indices. The result is on their device.
        count: Random numbers per image.
    """
    half = (count + 1) // 2
    values = torch.empty(len(index), 2, half, device=index.device)
    for columns in _blocks(index, half):
        bits = _bits(key, index, columns)
        # One hash gives two uniform numbers: bits 8..31 for the radius, in (0, 1], and bits 32..55
        # for the angle.
        radius = (bits >> 8).bitwise_and_(0xFFFFFF).add_(1).float()
        radius = radius.mul_(2.0**-24).log_().mul_(-2).sqrt_()
        angle = (bits >> 32).bitwise_and_(0xFFFFFF).float().mul_(2 * math.pi * 2.0**-24)
        values[:, 0, columns] = radius * angle.cos()
        values[:, 1, columns] = radius.mul_(angle.sin_())
    return values.view(-1, 2 * half)[:, :count]


def permutation(key: int, count: int) -> Int64[Tensor, " count"]:
    """A random permutation of ``range(count)``, on the CPU.

    ```python
    order = permutation(key(seed, "epoch", epoch), len(images))
    ```
    """
    return torch.randperm(count, generator=torch.Generator().manual_seed(key & (2**63 - 1)))


def _blocks(index: Tensor, count: int) -> Iterator[slice]:
    """Slices of columns to compute at once: on a CPU, few enough to stay in its cache."""
    step = max(1, _BLOCK // max(1, len(index))) if index.device.type == "cpu" else max(1, count)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _fractions(bits: Int64[Tensor, "n columns"]) -> Float32[Tensor, "n columns"]:
    return (bits >> 8).bitwise_and_(0xFFFFFF).float().mul_(2.0**-24)


def _bits(key: Key | Tensor, index: Tensor, columns: slice) -> Int64[Tensor, "n columns"]:
    start = key.value if isinstance(key, MovingKey) else key
    rows = _mix(index.to(torch.int64) * _GOLDEN + start)[:, None]  # [n, 1]
    positions = torch.arange(columns.start + 1, columns.stop + 1, device=index.device)
    return _mix(rows + positions * _GOLDEN)  # [n, columns]


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place."""
    z = z.bitwise_xor_(_shift(z, 30)).mul_(_MIX_1)
    z = z.bitwise_xor_(_shift(z, 27)).mul_(_MIX_2)
    return z.bitwise_xor_(_shift(z, 31))


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift. The operator ``>>`` on int64 is an arithmetic one."""
    return (z >> bits).bitwise_and_((1 << 64 - bits) - 1)
