"""The KV cache: what attention keeps of the positions it has seen, so that each new token costs one position."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eco.kernels.decode import Store


@dataclass(frozen=True)
class Past:
    """One layer's part of the cache during one forward pass that adds positions `start` and up.

    keys, values: (B, Hkv, end, D) views of the cache, of which `start ..` are still to be written. Keys may be larger
    than values.
    mask: (B or 1, 1, T, end) bool, True where a new token may look; None where causality alone decides: one new token
    sees all, several start from an empty cache.
    """

    keys: Tensor
    values: Tensor
    start: int
    mask: Tensor | None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the new positions (B, Hkv, T, D) and returns all of them, old and new."""
        self.keys[:, :, self.start :] = keys
        self.values[:, :, self.start :] = values
        return self.keys, self.values


class KVCache:
    """Keys and values of all layers, allocated once for `capacity` positions (see `eco.models.contract.Cache`).

    key_size: numbers of a key; None: as many as of a value, `head_size`.
    padding: (B,) int64, the left padding of each row, which no real token sees; None means none.
    prefix, slot: None until `branch` shares the first positions; then these, and (B,) int64, where in `keys` and
    `values` the further positions of a row of the batch lie.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        kv_heads: int,
        capacity: int,
        head_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        padding: Tensor | None = None,
        key_size: int | None = None,
    ) -> None:
        shape = (layers, batch, kv_heads, capacity)
        self.keys = torch.empty(*shape, key_size or head_size, dtype=dtype, device=device)
        self.values = torch.empty(*shape, head_size, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0
        self.prefix: Store | None = None
        self.slot: Tensor | None = None
        self.padding: Tensor | None = None
        self._set_padding(padding)

    def extend(self, count: int) -> list[Past]:
        """Opens `count` further positions and returns each layer's part of the cache, which the layer has to fill.

        Raises:
            ValueError: the cache was allocated for fewer positions.
        """
        assert self.prefix is None
        start, end = self.length, self.length + count
        if end > self.capacity:
            raise ValueError(
                f"the cache holds {self.capacity} positions and {start} are taken, so {count} more do not fit; "
                "ask new_cache for a greater length"
            )
        mask = self._mask(start, end)
        self.length = end
        keys, values = self.keys[:, :, :, :end], self.values[:, :, :, :end]
        return [Past(k, v, start, mask) for k, v in zip(keys, values, strict=True)]

    def positions(self, count: int) -> Tensor:
        """Positions of the next `count` tokens, counted from each row's first real token: (count,) or (B, count)."""
        columns = torch.arange(self.length, self.length + count, device=self.keys.device)
        if self.padding is None:
            return columns
        return (columns - self.padding[:, None]).clamp(min=0)

    def next_position(self) -> int:
        """The greatest position, over the rows, that the next token will have."""
        return self.length - self.least_padding

    def keep(self, rows: Tensor) -> None:
        """Keeps only the batch rows `rows` (int64 indices), in that order."""
        if self.prefix is not None and self.slot is not None and self.prefix.rows is not None:
            self.slot = self.slot[rows]
            self.prefix = replace(self.prefix, rows=self.prefix.rows[rows])
        else:
            self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        if self.padding is not None:
            self._set_padding(self.padding[rows])

    def branch(self, rows: Tensor, count: int, shared: bool) -> None:
        """See `eco.models.contract.Cache`. What is shared is never moved, and neither are then the rows that `keep`
        keeps: they are looked up in `prefix` and, behind it, in `slot`."""
        before = Store(self.keys[:, :, :, : self.length], self.values[:, :, :, : self.length], rows)
        layers, _, heads, _, _ = self.keys.shape
        shape = (layers, len(rows), heads, count + (0 if shared else self.length))
        self.keys, self.values = (x.new_empty(*shape, x.shape[-1]) for x in (before.keys, before.values))
        self.capacity = self.length + count
        if shared:
            self.prefix, self.slot = before, torch.arange(len(rows))
        else:
            self.keys[:, :, :, : self.length] = before.keys[:, rows]
            self.values[:, :, :, : self.length] = before.values[:, rows]
        if self.padding is not None:
            self._set_padding(self.padding[rows])

    def _set_padding(self, padding: Tensor | None) -> None:
        if padding is None or padding.numel() == 0 or not padding.any():
            self.padding, self.least_padding = None, 0
        else:
            self.padding = padding.to(self.keys.device)
            self.least_padding = int(padding.min())

    def _mask(self, start: int, end: int) -> Tensor | None:
        if self.padding is None and (start == 0 or end == start + 1):
            return None
        device = self.keys.device
        queries = torch.arange(start, end, device=device)[:, None]
        keys = torch.arange(end, device=device)
        causal = keys <= queries
        if self.padding is None:
            return causal[None, None]
        real = keys >= self.padding[:, None, None]
        # A padding query sees itself: a softmax over no key at all is NaN on some devices.
        return ((causal & real) | (keys == queries))[:, None]
