"""A device that needs no hardware: tensors that say they are on ``meta`` and compute on the CPU.

A computation on it gives the CPU's numbers, and raises where CUDA or MPS would:

* an operation takes tensors of both the device and the CPU (RuntimeError, as CUDA). Allowed are, as on CUDA, copies, a CPU
  tensor without dimensions, and CPU tensors as indices;
* an operation makes a float64 tensor on the device (TypeError, as MPS);
* a tensor of the device is read as a numpy array (by torch itself).
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
    torch.ops.aten._has_compatible_shallow_copy_type.default,  # Module.to asks it; it reads no values
}
_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class OnDevice(torch.Tensor):
    """A tensor of the pretended device; ``held`` is what it holds, on the CPU."""

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
    """An index whose lists are tensors: torch would make them on meta, where they keep no values."""
    if isinstance(index, tuple):
        return tuple(map(_with_values, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _run(func, args: tuple, kwargs: dict) -> object:
    """One operation, by the CPU; what it makes is on the device if it is asked for there, or made of what is there."""
    moves, in_place = _kind(func)
    if moves:  # in inference mode it comes here whole
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
            raise AssertionError(f"{func} is given a tensor without values")  # a hole in this module
        return func(*args, **kwargs)  # transformers makes a model without values before it reads them
    if here and func not in _ACROSS:
        # Indices may come from the CPU, if what is indexed is on the device.
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
    """Whether an operation may move a tensor by way of others, and whether it works in place."""
    name = func._schema.name
    return name in ("aten::to", "aten::type_as"), func._schema.is_mutable and name.endswith("_")


def _on_device(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return OnDevice(value)
    return type(value)(map(_on_device, value)) if isinstance(value, list | tuple) else value


class _Made(TorchDispatchMode):
    """Sends what makes a tensor on the device to :func:`_run`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to make sure of it costs more than the operations

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[torch.device]:
    """While open, the device is there."""
    written: Callable[..., torch.Tensor] = torch.tensor
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()

    def keeping(*args: object, device: torch.device | None = None, **kwargs: object) -> torch.Tensor:
        return written(*args, **kwargs) if device is None else written(*args, **kwargs).to(device)

    torch.tensor = keeping  # on meta it would keep no values
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # Module.to: a parameter cannot change its class in place
    try:
        with _Made():
            yield DEVICE
    finally:
        torch.tensor = written
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
