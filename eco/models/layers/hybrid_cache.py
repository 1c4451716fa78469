"""The cache of a model of recurrent and latent-attention layers: a state of fixed size, or latents of all positions."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["recurrent", "latent"]


class RecurrentPast:
    """What a recurrent layer keeps of all it has seen: tensors of (B, ...); None before the first token."""

    def __init__(self) -> None:
        self.state: tuple[Tensor, ...] | None = None

    def keep(self, rows: Tensor) -> None:
        if self.state is not None:
            self.state = tuple(tensor[rows] for tensor in self.state)


class LatentPast:
    """What latent attention keeps of each position: its latent (B, capacity, L) and shared rotary key (B, capacity, r).

    start: positions written before the forward pass in hand.
    """

    def __init__(self, latents: Tensor, rope_keys: Tensor) -> None:
        self.latents, self.rope_keys = latents, rope_keys
        self.start = 0

    def append(self, latent: Tensor, rope_key: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the next positions, (B, T, L) and (B, T, r), and returns all of them, old and new."""
        end = self.start + latent.shape[1]
        self.latents[:, self.start : end] = latent
        self.rope_keys[:, self.start : end] = rope_key
        return self.latents[:, :end], self.rope_keys[:, :end]

    def keep(self, rows: Tensor, further: int = 0) -> None:
        """Keeps `rows`; where `further` is given, with room for so many positions behind those that are taken."""
        latents, rope_keys = self.latents[rows], self.rope_keys[rows]
        if further:
            latents, rope_keys = (_resized(kept, self.start, self.start + further) for kept in (latents, rope_keys))
        self.latents, self.rope_keys = latents, rope_keys


class HybridCache:
    """The layers' pasts and where each row's documents begin (see `eco.models.contract.Cache`).

    Left padding is a document of its own before the first real token: no real token sees it.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        batch: int,
        capacity: int,
        sizes: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device,
        padding: Tensor | None = None,
    ) -> None:
        """
        kinds: of each layer. sizes: numbers of a latent and of a rotary key. padding: (B,) int64; None is none.
        """
        self.capacity = capacity
        self.length = 0
        self.pasts = [
            RecurrentPast()
            if kind == "recurrent"
            else LatentPast(*(torch.zeros(batch, capacity, size, dtype=dtype, device=device) for size in sizes))
            for kind in kinds
        ]
        self._padding = torch.zeros(batch, dtype=torch.int64) if padding is None else padding
        self._padding = self._padding.to(device)
        self._first = torch.zeros(batch, dtype=torch.int64, device=device)
        self._ended = torch.zeros(batch, dtype=torch.bool, device=device)

    def extend(self, ends: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Opens further positions and returns where documents begin and which each position is of.

        ends: (B, T) bool, the new tokens that end a document.
        Returns (B, T) bool, True where a document begins, and (B, T) int64, the position at which each one's began;
        None where none begins, or where all tokens are of documents that began at 0.

        Raises:
            ValueError: the cache was made for fewer positions.
        """
        start, count = self.length, ends.shape[1]
        if start + count > self.capacity:
            raise ValueError(
                f"the cache holds {self.capacity} positions and {start} are taken, so {count} more do not fit; "
                "ask new_cache for a greater length"
            )
        columns = torch.arange(start, start + count, device=ends.device)
        padding = self._padding[:, None]
        begins = torch.cat([self._ended[:, None], ends[:, :-1]], dim=1) | ((columns == padding) & (padding > 0))
        first = torch.maximum(self._first[:, None], torch.where(begins, columns, 0).cummax(dim=1).values)
        self._first, self._ended = first[:, -1], ends[:, -1]
        for past in self.pasts:
            if isinstance(past, LatentPast):
                past.start = start
        self.length = start + count
        return begins if begins.any() else None, first if first.any() else None

    def keep(self, rows: Tensor) -> None:
        """Keeps only the batch rows `rows` (int64 indices), in that order."""
        self._select(rows)
        for past in self.pasts:
            past.keep(rows)

    def branch(self, rows: Tensor, count: int, shared: bool) -> None:
        """See `eco.models.contract.Cache`. Nothing is shared: there is no fused step that could read it."""
        assert not shared
        self._select(rows)
        self.capacity = self.length + count
        for past in self.pasts:
            if isinstance(past, LatentPast):
                past.start = self.length
                past.keep(rows, count)
            else:
                past.keep(rows)

    def _select(self, rows: Tensor) -> None:
        self._padding, self._first, self._ended = self._padding[rows], self._first[rows], self._ended[rows]


def documents(ends: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What `HybridCache.extend` returns, where nothing was before."""
    begins = F.pad(ends[:, :-1], (1, 0))
    if not begins.any():
        return None, None
    columns = torch.arange(ends.shape[1], device=ends.device)
    return begins, torch.where(begins, columns, 0).cummax(dim=1).values


def _resized(kept: Tensor, taken: int, capacity: int) -> Tensor:
    """kept (B, positions, ...), of which `taken` count, in a tensor for `capacity` positions."""
    resized = kept.new_zeros(kept.shape[0], capacity, *kept.shape[2:])
    resized[:, :taken] = kept[:, :taken]
    return resized
