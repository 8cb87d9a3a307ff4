"""Run code on tensors that have shapes but no values, and count what the real ones would take.

Every storage is counted from the operation that makes it until nothing refers to it, what autograd keeps
included, so that the peak follows from the code and not from a formula of it. What a kernel allocates within
itself is not seen, but for the copies that oneDNN makes of a convolution's maps.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

_DRAWS = (aten.uniform_.default, aten.normal_.default)


class DryRun:
    """Count the bytes and the operations of what runs in its `counting` block.

    Numbers that code asks of tensors without values are 1, and truths are False; tensors made outside the
    block keep their values as long as they meet no other.

    Args:
        like_gpu: take the paths of the networks that a GPU takes, without oneDNN.

    Examples:
        >>> dry = DryRun()
        >>> with dry.counting():
        ...     x = torch.zeros(1000, 1000)
        ...     y = x + 1
        >>> dry.peak_bytes
        8000000
    """

    def __init__(self, *, like_gpu: bool = False) -> None:
        self.like_gpu = like_gpu
        self._ledger = _Ledger(like_gpu=like_gpu)

    @property
    def peak_bytes(self) -> int:
        """Most bytes that existed at once."""
        return self._ledger.peak

    @property
    def operations(self) -> int:
        """Floating-point operations of convolutions and matrix products, two for a multiply-add."""
        return self._ledger.operations

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Run a block without values."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
            warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
            onednn = torch.backends.mkldnn.flags(enabled=False) if self.like_gpu else nullcontext()
            with onednn, FakeTensorMode(allow_non_fake_inputs=True), self._ledger:
                yield


class _Ledger(TorchDispatchMode):
    """Follow the storages of all tensors that operations return."""

    def __init__(self, *, like_gpu: bool) -> None:
        super().__init__()
        self.like_gpu = like_gpu
        self.live = self.peak = self.operations = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default:  # most calls: each question for a tensor's device
            return func(*args)
        output = self._compute(func, tuple(args), dict(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, FakeTensor):
                self._add(tensor)
        if not self.like_gpu:
            self._use_scratch(func, tuple(args))
        return output

    def _compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with torch.utils._python_dispatch._disable_current_modes():
                return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 1
        if func in _DRAWS:
            return args[0]
        keeps_order = func in _CONVOLUTIONS and _has_channels_last(args[0])
        if func in _AS_PLAIN:
            func, args = _AS_PLAIN[func](*args)
        output = func(*args, **kwargs)
        if keeps_order:
            output = output.contiguous(memory_format=torch.channels_last_3d)
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=output)
        return output

    def _use_scratch(self, func: Any, args: tuple[Any, ...]) -> None:
        """Count what oneDNN takes, for the time of a convolution, to bring the maps into its own order."""
        maps = {aten.convolution.default: args[:1], aten.convolution_backward.default: args[:2]}.get(func, ())
        self.peak = max(self.peak, self.live + sum(t.numel() * t.element_size() for t in maps))

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, n_bytes = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def forget(_: Any) -> None:
            del self._known[key]
            self.live -= n_bytes

        self._known[key] = weakref.ref(storage, forget)
        self.live += n_bytes
        self.peak = max(self.peak, self.live)


def _onednn(x: Any, weight: Any, bias: Any, padding: Any, stride: Any, dilation: Any, groups: Any) -> Any:
    geometry = (stride, padding, dilation, False, [0] * len(stride), groups)
    return aten.convolution.default, (x, weight, bias, *geometry)


def _has_channels_last(x: Tensor) -> bool:
    return x.ndim == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)


_CONVOLUTIONS = (aten.mkldnn_convolution.default, torch.ops.mkldnn._convolution_pointwise.default)
"""They give their maps the order of the input; a plain convolution without values does not always."""

_AS_PLAIN: dict[Any, Callable[..., Any]] = {
    aten.mkldnn_convolution.default: _onednn,
    torch.ops.mkldnn._convolution_pointwise.default: lambda *args: _onednn(*args[:7]),
    aten.to_mkldnn.default: lambda x, *_: (aten.clone.default, (x,)),
    aten.mkldnn_reorder_conv3d_weight.default: lambda weight, *_: (aten.clone.default, (weight,)),
}
"""oneDNN's operations, which tensors without values do not know, and those of equal shape."""
