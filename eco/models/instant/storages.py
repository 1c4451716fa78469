"""Memory by identity: which tensors are views of the same, and whether anybody still holds it."""

from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class Memory:
    """A tensor's, not kept alive by this: `address` is the same for all views, and no other's while this lives."""

    def __init__(self, x: Tensor) -> None:
        self._held = StorageWeakRef(x.untyped_storage())  # type: ignore[no-untyped-call]
        self._dtype = x.dtype
        self.address = address(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A weak reference is its own copy, as Python's are; torch's copied would be freed twice."""
        return self

    @property
    def gone(self) -> bool:
        """Whether nobody holds it any more."""
        return bool(self._held.expired())  # type: ignore[no-untyped-call]

    def whole(self) -> Tensor | None:
        """All of it as one flat tensor, None where it is gone."""
        storage = torch.UntypedStorage._new_with_weak_ptr(self._held.cdata)
        return None if storage is None else torch.empty(0, dtype=self._dtype, device=storage.device).set_(storage)


class Storages:
    """A set of tensors' memory that keeps none of it alive."""

    def __init__(self) -> None:
        self._held: dict[int, Memory] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Storages":
        copied = Storages()
        copied._held = dict(self._held)
        return copied

    def __reduce__(self) -> tuple[type["Storages"], tuple[()]]:
        """Pickled it is empty: another process has other memory."""
        return Storages, ()

    def add(self, tensors: Iterable[Tensor]) -> None:
        self._held = {address: memory for address, memory in self._held.items() if not memory.gone}
        self._held |= {memory.address: memory for memory in map(Memory, tensors)}

    def __contains__(self, x: Tensor) -> bool:
        return address(x) in self._held


def address(x: Tensor) -> int:
    """Names x's memory."""
    return int(x.untyped_storage()._cdata)


def whole(x: Tensor) -> Tensor:
    """All of x's memory as one flat tensor."""
    return x.detach().as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
