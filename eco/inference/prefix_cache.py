"""A prompt-prefix cache: prompts that begin alike, as with one system prompt or the same examples, share the work.

As in vLLM's automatic prefix caching (arXiv 2309.06180): a prompt's keys and values are kept in blocks of `BLOCK`
tokens. A block's name is a hash of the weights' version, the model's conditioning, and all tokens up to the block's end
(chained: the hash of the block before, and its own tokens), so that equal names are equal keys and values.
"""

import hashlib
import itertools
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from eco.models.contract import Cache, LanguageModel
from eco.models.layers.cache import KVCache
from eco.models.layers.optimizer_steps import OptimizerSteps
from eco.models.layers.transformer import Transformer

BLOCK = 32
"""Tokens of a block. Fewer find more in common, and cost more copies and more hashes."""

Prompt = tuple[int, ...]


@dataclass
class PrefixStatistics:
    """hits, misses: prompts of more than one block of which a beginning was cached, or was not.

    tokens_saved: prompt tokens that no forward pass had to compute. evictions: blocks that left for want of room.
    invalidations: times that everything was dropped because the weights had changed.
    bytes: keys and values now held.
    """

    hits: int = 0
    misses: int = 0
    tokens_saved: int = 0
    evictions: int = 0
    invalidations: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Block:
    """(layers, Hkv, BLOCK, size) both, as for a row without padding."""

    keys: Tensor
    values: Tensor

    @property
    def bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class PrefixCache:
    """Keys and values of the latest prompts' beginnings, at most `capacity` bytes of them.

    It serves models whose cache is a plain `KVCache`; all others pass by it. A change of the weights drops everything:
    a step of any optimizer in the process, a tensor written in place, as loading and averaging do, or replaced. What is
    written through `tensor.data` alone goes unnoticed; call `clear` then.

    Where a row was continued from is visible in the last bits of its logits, as with another batch size.
    """

    def __init__(self, capacity: int) -> None:
        """
        Raises:
            ValueError: the capacity is not positive.
        """
        if capacity <= 0:
            raise ValueError(f"a prefix cache of {capacity} bytes holds nothing; give it more, or None for no cache")
        self.capacity = capacity
        self.statistics = PrefixStatistics()
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()
        """The least recently used first, and no block before one that continues it: see `_touch`."""
        self._weights = _Weights()

    def clear(self) -> None:
        """Drops everything."""
        self._blocks.clear()
        self.statistics.bytes = 0

    def restore(self, model: LanguageModel, prompts: Sequence[Prompt], cache: Cache) -> int:
        """Writes what is known of the prompts into their empty cache and returns how many of its positions are done.

        prompts: one for each row of the cache, right-aligned in it behind left padding.

        A batch goes on from one position for all rows, the least that any of them needs; what further rows know beyond
        it is computed again. What all prompts have in common, where it is not cached yet, is computed first, once.
        """
        if not (isinstance(model, Transformer) and type(cache) is KVCache):
            return 0
        if self._weights.changed(model):
            self.statistics.invalidations += bool(self._blocks)
            self.clear()
        names = [self._names(model, prompt) for prompt in prompts]
        hits = sum(bool(self._known(chain)) for chain in names)
        self.statistics.hits += hits
        self.statistics.misses += sum(map(bool, names)) - hits
        shared = _common(prompts)
        if len(prompts) > 1 and len(shared) > BLOCK * max(len(self._known(chain)) for chain in names):
            self._learn(model, shared)
        return self._filled(model, prompts, names, cache)

    def keep(self, model: LanguageModel, prompts: Sequence[Prompt], cache: Cache) -> None:
        """Copies the blocks that are new out of the cache, whose rows `prompts` have just been computed."""
        if not (isinstance(model, Transformer) and type(cache) is KVCache):
            return
        longest = max(map(len, prompts))
        for row, prompt in enumerate(prompts):
            self._insert(model, self._names(model, prompt, whole=True), cache, row, longest - len(prompt))

    def _learn(self, model: Transformer, prompt: Prompt) -> None:
        """Computes one prompt for its keys and values alone."""
        cache = model.new_cache(1, len(prompt))
        done = self._filled(model, [prompt], [self._names(model, prompt)], cache)
        model(torch.tensor([prompt[done:]], device=cache.keys.device), cache, last_only=True)
        self.statistics.tokens_saved -= len(prompt)  # `restore` counts each of its rows, and one was computed
        self.keep(model, [prompt], cache)

    def _filled(self, model: Transformer, prompts: Sequence[Prompt], names: list[list[bytes]], cache: KVCache) -> int:
        """Writes the known blocks into all rows, up to where the first of them ends; returns how far that is."""
        known = [self._known(chain) for chain in names]
        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        done = min(pad + len(found) * BLOCK for pad, found in zip(pads, known, strict=True))
        for row, (pad, found) in enumerate(zip(pads, known, strict=True)):
            self._write(model, cache, row, pad, found, done)
            self._touch(names[row][: len(found)])
        cache.length = done
        self.statistics.tokens_saved += sum(max(0, done - pad) for pad in pads)
        return done

    def _names(self, model: Transformer, prompt: Prompt, whole: bool = False) -> list[bytes]:
        """The names of the prompt's full blocks; without the one that holds its last token, unless `whole`."""
        tokens = np.asarray(prompt, dtype=np.int64)
        root = f"{self._weights.version} {model.conditioning}"
        name, names = hashlib.blake2b(root.encode(), digest_size=16).digest(), []
        for first in range(0, len(prompt) - BLOCK + whole, BLOCK):
            name = hashlib.blake2b(name + tokens[first : first + BLOCK].tobytes(), digest_size=16).digest()
            names.append(name)
        return names

    def _known(self, names: list[bytes]) -> list[_Block]:
        return [self._blocks[name] for name in itertools.takewhile(self._blocks.__contains__, names)]

    def _touch(self, names: list[bytes]) -> None:
        """The last of the chain first: a block is used no later than those before it, which so outlive it."""
        for name in reversed(names):
            self._blocks.move_to_end(name)

    def _write(self, model: Transformer, cache: KVCache, row: int, pad: int, found: list[_Block], done: int) -> None:
        """Fills columns 0 to `done` of one row. Padding becomes zero: it is masked, but NaN times zero is NaN."""
        cache.keys[:, row, :, : min(pad, done)] = 0
        cache.values[:, row, :, : min(pad, done)] = 0
        for number, block in enumerate(found):
            first = pad + number * BLOCK
            count = min(BLOCK, done - first)
            if count <= 0:
                break
            cache.keys[:, row, :, first : first + count] = model.moved_keys(block.keys[:, :, :count], pad)
            cache.values[:, row, :, first : first + count] = block.values[:, :, :count]

    def _insert(self, model: Transformer, names: list[bytes], cache: KVCache, row: int, pad: int) -> None:
        """Copies one row's new blocks; of a chain that is greater than the capacity the first ones."""
        of_block = (cache.keys[:, 0, :, :BLOCK].numel() + cache.values[:, 0, :, :BLOCK].numel()) * cache.keys.itemsize
        names = names[: self.capacity // of_block]
        self._touch([name for name in names if name in self._blocks])
        for number, name in enumerate(names):
            if name in self._blocks:
                continue
            while self.statistics.bytes + of_block > self.capacity:
                self.statistics.bytes -= self._blocks.popitem(last=False)[1].bytes
                self.statistics.evictions += 1
            columns = slice(pad + number * BLOCK, pad + (number + 1) * BLOCK)
            keys, values = cache.keys[:, row, :, columns], cache.values[:, row, :, columns]
            self._blocks[name] = _Block(model.moved_keys(keys, -pad).clone(), values.clone())
            self.statistics.bytes += of_block
        self._touch(names)


class _Weights:
    """Tells when the weights of a model are no longer what they were: other tensors, other memory, or written to."""

    def __init__(self) -> None:
        self.version = 0
        self._steps = -1
        self._seen: list[tuple[weakref.ref[Tensor], int, int]] = []

    def changed(self, model: nn.Module) -> bool:
        """Whether they changed since the last call; `version` then rises."""
        tensors = list(itertools.chain(model.parameters(), model.buffers()))
        same = self._steps == OptimizerSteps.count and len(tensors) == len(self._seen)
        same = same and all(
            seen() is tensor and (tensor._version, tensor.data_ptr()) == (version, address)
            for tensor, (seen, version, address) in zip(tensors, self._seen, strict=True)
        )
        if not same:
            # By reference, for the memory of a tensor that is gone may be given to the next.
            self._seen = [(weakref.ref(tensor), tensor._version, tensor.data_ptr()) for tensor in tensors]
            self._steps = OptimizerSteps.count
            self.version += 1
        return not same


def _common(prompts: Sequence[Prompt]) -> Prompt:
    """The whole blocks that all prompts begin with, and go on from."""
    first, last = min(prompts), max(prompts)  # by their tokens: what these two share, all between them share
    shortest = min(map(len, prompts))
    same = next((at for at in range(shortest) if first[at] != last[at]), shortest - 1)
    return first[: same // BLOCK * BLOCK]
