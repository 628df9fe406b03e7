"""Simulated device that needs no hardware: tensors report the device ``meta`` and compute on the CPU.

A computation on it gives the same numbers as the CPU, and raises an error where CUDA or MPS would:

* an operation takes tensors of both the device and the CPU (RuntimeError, as on CUDA). As on CUDA, copies, CPU tensors without
  dimensions, and CPU tensors as indices are allowed;
* an operation creates a float64 tensor on the device (TypeError, as on MPS);
* a tensor of the device is read as a numpy array (torch itself raises the error).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")

_CPU = torch.device("cpu")
_ACROSS = {
    torch.ops.aten.copy_.default,
    torch.ops.aten._to_copy.default,
    torch.ops.aten._has_compatible_shallow_copy_type.default,  # called by Module.to; reads no values
}
_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class OnDevice(torch.Tensor):
    """Tensor on the simulated device; ``held`` is the CPU tensor with its values."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        if held.dtype == torch.float64:
            raise TypeError("a float64 tensor is made on the device, which MPS cannot do; move it to the CPU first")
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: object) -> str:
        return f"OnDevice({self.held!r})"

    def tolist(self) -> object:
        return self.held.tolist()

    def __getitem__(self, index: object) -> torch.Tensor:
        return super().__getitem__(_with_values(index))

    def __setitem__(self, index: object, value: object) -> None:
        super().__setitem__(_with_values(index), value)


def _with_values(index: object) -> object:
    """Convert the lists in an index to tensors.

    Torch would create them on meta, without values.
    """
    if isinstance(index, tuple):
        return tuple(map(_with_values, index))
    return torch.tensor(index, dtype=None if index else torch.int64) if isinstance(index, list) else index


def _run(func, args: tuple, kwargs: dict) -> object:
    """Run one operation on the CPU.

    The result is on the device if the operation requests it, or if the operation names no device and one of its inputs is
    there.
    """
    moves, in_place = _kind(func)
    if moves:  # inference mode does not decompose it
        with _Made():
            return func.decompose(*args, **kwargs)
    tensors: list[torch.Tensor] = []

    def held(value: object) -> object:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            return value.held if isinstance(value, OnDevice) else value
        return type(value)(map(held, value)) if type(value) in (list, tuple) else value

    of_cpu = [held(value) for value in args], {name: held(value) for name, value in kwargs.items()}
    here = any(isinstance(tensor, OnDevice) for tensor in tensors)
    if any(tensor.device == DEVICE and not isinstance(tensor, OnDevice) for tensor in tensors):
        if here:
            raise AssertionError(f"{func} is given a tensor without values")  # a bug in this module
        return func(*args, **kwargs)  # transformers creates a model without values before it loads them
    if here and func not in _ACROSS:
        # Indices may be on the CPU if the indexed tensor is on the device.
        checked = [args[0], *args[2:]] if func in _INDEXED and isinstance(args[0], OnDevice) else tensors
        if any(isinstance(x, torch.Tensor) and not isinstance(x, OnDevice) and x.dim() for x in checked):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found {DEVICE} and cpu")
    asked = kwargs.get("device")
    if asked is not None:
        of_cpu[1]["device"] = _CPU
    found = func(*of_cpu[0], **of_cpu[1])
    if in_place:
        return args[0]
    target = here if asked is None else torch.device(asked).type == DEVICE.type
    return _on_device(found) if target else found


@cache
def _kind(func) -> tuple[bool, bool]:
    """Return whether an operation may move a tensor by calling others, and whether it works in place."""
    name = func._schema.name
    return name in ("aten::to", "aten::type_as"), func._schema.is_mutable and name.endswith("_")


def _on_device(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return OnDevice(value)
    return type(value)(map(_on_device, value)) if isinstance(value, list | tuple) else value


class _Made(TorchDispatchMode):
    """Send operations that create a tensor on the device to :func:`_run`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the check costs more than the operations

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Make the simulated device available inside the context."""
    written: Callable[..., torch.Tensor] = torch.tensor
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()

    def keeping(*args: object, device: torch.device | None = None, **kwargs: object) -> torch.Tensor:
        return written(*args, **kwargs) if device is None else written(*args, **kwargs).to(device)

    torch.tensor = keeping  # a tensor on meta has no values
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # Module.to: a parameter cannot change its class in place
    try:
        with _Made():
            yield DEVICE
    finally:
        torch.tensor = written
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
