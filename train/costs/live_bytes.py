"""Count the bytes that are alive while operations run, from every tensor they make.

Matrix products are not computed: only the size of their result matters, which is filled with zeros.

(torch's own `MemTracker` does not run on models with frozen parts.)
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes of activations: of a measured model, or extrapolated from measured ones."""

    kept: float
    """Saved from the forward pass for the backward pass."""

    peak: float
    """The most at any time."""

    def extrapolate(self, other: MemoryUse, *, times: float) -> MemoryUse:
        """Continue the line from `other` through this one by `times` the distance between them."""
        return MemoryUse(
            kept=self.kept + (self.kept - other.kept) * times,
            peak=self.peak + (self.peak - other.peak) * times,
        )


PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts the bytes of all storages that operations make in it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count the new storages of its result."""
        result = _zeros_like_product(args) if func in PRODUCTS else func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def ignore(self, tensors: Sequence[torch.Tensor]) -> None:
        """Do not count the storages of tensors that exist already."""
        self._known |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def _count(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name in self._known:
            return
        self._known.add(name)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, name, size)

    def _forget(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


def _zeros_like_product(args: Sequence[Any]) -> torch.Tensor:
    """Return zeros of the shape that the product of the last two arguments has."""
    left, right = args[-2:]
    zeros: torch.Tensor = left.new_zeros(*left.shape[:-1], right.shape[-1])
    return zeros


def drop_gradients(module: nn.Module) -> None:
    """Free the gradient of each trained parameter as soon as it is complete."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            hooked: Any = parameter
            hooked.register_post_accumulate_grad_hook(_drop_gradient)


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None
