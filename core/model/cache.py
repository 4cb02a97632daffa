"""Keys and values of contexts. Forks share the storage of the prefix that they have in common.

A cache is a length over a preallocated storage, as a slice over an array: a fork costs nothing, and the first
of two forks to append goes on in place; the other one takes a copy of its prefix when, and only when, it
appends too. Reading never copies a committed prefix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.config import LLMConfig


class _Storage:
    """Buffers [layers, capacity, kv_heads, d], of which ``used`` places are taken by some cache."""

    def __init__(self, config: LLMConfig, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.num_hidden_layers, capacity, config.num_key_value_heads, config.head_dim)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.used = 0

    def grow(self, capacity: int) -> None:
        if capacity <= self.keys.shape[1]:
            return
        capacity = max(capacity, 2 * self.keys.shape[1])
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty(old.shape[0], capacity, *old.shape[2:])
            new[:, : self.used] = old[:, : self.used]
            setattr(self, name, new)


class KVCache:
    """One context: ``length`` cached tokens and ``position``, the rotary position of the next one."""

    def __init__(
        self, config: LLMConfig, device: torch.device, dtype: torch.dtype = torch.float32, capacity: int = 256
    ) -> None:
        self._config, self._device, self._dtype = config, device, dtype
        self._storage = _Storage(config, capacity, device, dtype)
        self.length = 0
        self.position = 0

    def fork(self) -> KVCache:
        """Another context with the same past; nothing is copied."""
        twin = object.__new__(KVCache)
        twin.__dict__.update(self.__dict__)
        return twin

    def shares_storage_with(self, other: KVCache) -> bool:
        return self._storage is other._storage

    def reserve(self, count: int) -> None:
        """Makes room for ``count`` tokens after this context's end, before a committing forward pass."""
        if self.length < self._storage.used:  # another fork went on from here: keep a prefix of our own
            old = self._storage
            self._storage = _Storage(self._config, max(256, 2 * (self.length + count)), self._device, self._dtype)
            self._storage.keys[:, : self.length] = old.keys[:, : self.length]
            self._storage.values[:, : self.length] = old.values[:, : self.length]
        self._storage.grow(self.length + count)
        self._storage.used = self.length + count

    def extended(self, layer: int, k: Tensor, v: Tensor, *, commit: bool) -> tuple[Tensor, Tensor]:
        """Keys and values [length + n, kv_heads, d] of a layer with n new ones at the end.

        With ``commit`` the new ones are written into the reserved room; without, nothing is changed.
        """
        keys, values = self._storage.keys[layer], self._storage.values[layer]
        end = self.length + len(k)
        if commit:
            keys[self.length : end] = k
            values[self.length : end] = v
            return keys[:end], values[:end]
        if self.length == 0:
            return k, v
        return torch.cat([keys[: self.length], k]), torch.cat([values[: self.length], v])

    def advance(self, tokens: int, positions: int) -> None:
        """Counts what a committing forward pass has written."""
        self.length += tokens
        self.position += positions

    def rewind(self, length: int) -> None:
        """Forgets the tokens from ``length`` on and gives their room back, where no other fork has gone further.

        For scratch forks only: the rotary position is left as it is.
        """
        if self._storage.used == self.length:
            self._storage.used = length
        self.length = length

    @property
    def keys(self) -> Tensor:
        """[layers, length, kv_heads, d], after the key norm and the rotary embedding."""
        return self._storage.keys[:, : self.length]

    @property
    def values(self) -> Tensor:
        """[layers, length, kv_heads, d]."""
        return self._storage.values[:, : self.length]
