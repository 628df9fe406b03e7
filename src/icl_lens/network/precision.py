"""Number formats, and the format in which products of float32 matrices are computed.

A processor may round both factors of a float32 product to a shorter format and sum in float32. The format is TF32 (10 binary
digits after the point) on NVIDIA GPUs since Ampere, and bfloat16 (7 digits) on CPUs with AMX. Products are then several times
faster and less accurate. :func:`products` sets the format for the code inside, independently of torch's defaults, the user's
code and the environment, and reports the format that the device actually uses. :func:`exact_products` is for checks that
compare two computations with a tolerance for float32.

These are global settings of torch, so they apply to all threads of the process. See torch's notes on numerical accuracy and
``torch.set_float32_matmul_precision``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from icl_lens.errors import InputError

logger = logging.getLogger(__name__)

# Environment variables of libraries that torch uses. The settings of torch cannot override them.
OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")

# Width of the square matrices that are multiplied to detect the format. All kernels with a shorter format support this width.
_WIDTH = 256


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert a tensor to float32, or return it unchanged if it is wider.

    This ensures that sums and exponentials are never computed in half precision.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def products(matmul: str, device: torch.device) -> Iterator[str]:
    """Set the precision of float32 matrix products inside this context, exact or fast, and restore torch's settings afterwards.

    Args:
        matmul: ``exact`` for products of float32 numbers, summed in float32. ``fast`` for TF32 on CUDA, and bfloat16 on CPUs
            with hardware support for it.
        device: The device that computes the products.

    Yields:
        The format in which the device computes the products (see :func:`measured_format`). With ``fast`` it is ``float32`` if
        the device has no faster products, and a warning is logged.

    Raises:
        InputError: ``matmul`` is ``exact``, but the device rounds the factors even when torch is set to full precision.
        ValueError: ``matmul`` is neither ``exact`` nor ``fast`` (a bug in the caller).
    """
    if matmul not in ("exact", "fast"):
        raise ValueError(f"matmul must be 'exact' or 'fast', got {matmul!r}")
    with ExitStack() as settings:
        settings.enter_context(_torch_precision(matmul))
        measured = measured_format(device)
        if matmul == "exact" and measured != "float32":
            variables = " and ".join(f"{name}={os.environ[name]}" for name in OVERRIDES if name in os.environ)
            cause = f"remove {variables} from the environment" if variables else "choose another device"
            raise InputError(
                f"matmul is exact, but {device.type} multiplies float32 matrices in {measured} even when torch is set to full "
                f"precision; {cause}, or set matmul to fast"
            )
        if matmul == "fast" and measured == "float32":
            logger.warning(
                "matmul: fast has no effect: %s has no faster float32 products, so they are exact", _device_label(device)
            )
            # Without AMX, torch uses other float32 kernels for "medium", and these sum in another order.
            settings.enter_context(_torch_precision("exact"))
        yield measured


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute products of float32 matrices in float32, regardless of the settings. Use it as a context manager or decorator."""
    with _torch_precision("exact"):
        yield


@torch.no_grad()
def measured_format(device: torch.device) -> str:
    """Measure the format in which a device currently multiplies float32 matrices: float32, tf32 or bfloat16.

    The function multiplies ones by numbers slightly above one, which a shorter format rounds to one: 1 + 2^-9 in bfloat16, and
    1 + 2^-12 in TF32. float16 has as many digits as TF32, so the function cannot distinguish these two formats.
    """
    ones = torch.ones(_WIDTH, _WIDTH, device=device)
    for name, digits in (("bfloat16", 9), ("tf32", 12)):
        if (ones @ (ones + 2.0**-digits))[0, 0].item() == _WIDTH:
            return name
    return "float32"


def _device_label(device: torch.device) -> str:
    return "this CPU (no AMX)" if device.type == "cpu" else f"device {device.type}"


@contextmanager
def _torch_precision(matmul: str) -> Iterator[None]:
    previous = _Settings.read()
    try:
        _Settings.for_matmul(matmul).apply()
        yield
    finally:
        previous.apply()


class _Settings:
    """The settings of torch for float32 products, in its older interface (two switches) and newer (one format per backend).

    If the two interfaces contradict each other, torch raises an error when a setting is read, and some kernels raise an error
    when they run. Therefore both are set.

    Attributes:
        matmul: Precision of products in the older interface: highest, high or medium; None if torch does not return it.
        convolutions: Whether the older interface allows TF32 in cuDNN; None if torch does not return it.
        formats: Format of each backend and operation in the newer interface: ieee, tf32, bf16, or none (the default of the
            backend).
    """

    def __init__(self, matmul: str | None, convolutions: bool | None, formats: dict[str, str]) -> None:
        self.matmul, self.convolutions, self.formats = matmul, convolutions, formats

    @classmethod
    def for_matmul(cls, matmul: str) -> _Settings:
        if matmul == "exact":
            return cls("highest", False, dict.fromkeys(_backends(), "ieee"))
        # "medium" selects the fastest format of each backend.
        return cls("medium", True, {name: "bf16" if name == "mkldnn.matmul" else "tf32" for name in _backends()})

    @classmethod
    def read(cls) -> _Settings:
        def value_or_none(setting: Any) -> Any:
            try:
                return setting()
            except RuntimeError:  # the older and the newer interface were both used
                return None

        return cls(
            value_or_none(torch.get_float32_matmul_precision),
            value_or_none(lambda: torch.backends.cudnn.allow_tf32),
            {name: backend.fp32_precision for name, backend in _backends().items()},
        )

    def apply(self) -> None:
        if self.matmul is not None:
            torch.set_float32_matmul_precision(self.matmul)
        if self.convolutions is not None:
            torch.backends.cudnn.allow_tf32 = self.convolutions
        for name, backend in _backends().items():
            if backend.fp32_precision != self.formats[name]:
                backend.fp32_precision = self.formats[name]


def _backends() -> dict[str, Any]:
    return {
        "cuda.matmul": torch.backends.cuda.matmul,
        "cudnn.conv": torch.backends.cudnn.conv,
        "cudnn.rnn": torch.backends.cudnn.rnn,
        "mkldnn.matmul": torch.backends.mkldnn.matmul,
    }
