"""Number formats, and in which format the products of float32 matrices are computed.

A processor may round both factors of a float32 product to a shorter format and sum in float32: to TF32 (10 binary digits after
the point) on NVIDIA GPUs since Ampere, to bfloat16 (7) on CPUs with AMX. Products are then several times faster, and less
accurate. :func:`products` sets this for the code inside, independently of torch's defaults, the user's code and the
environment, and reports the format that the device actually uses; :func:`exact_products` is for checks that compare two
computations with a tolerance for float32.

The settings are torch's own, so they hold for all threads of the process. See torch's notes on numerical accuracy and
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

# Environment variables of libraries that torch uses; torch's own settings cannot override them.
OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")

# Width of the square matrices that are multiplied to detect the format: wide enough for all kernels in a shorter format.
_WIDTH = 256


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or unchanged if it is wider: sums and exponentials are never in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def products(matmul: str, device: torch.device) -> Iterator[str]:
    """Compute products of float32 matrices exactly or fast inside; afterwards torch's settings are as before.

    Args:
        matmul: ``exact``: products of float32 numbers, added up in float32. ``fast``: TF32 on CUDA, bfloat16 on CPUs that have
            such products in hardware.
        device: Where the products are computed.

    Yields:
        The format in which the device computes them, as :func:`measured`. With ``fast`` it is ``float32`` where the device has
        no faster products, and a warning says so.

    Raises:
        InputError: ``matmul`` is ``exact``, but the device rounds factors although torch is set not to.
        ValueError: ``matmul`` is neither (a defect of the caller).
    """
    if matmul not in ("exact", "fast"):
        raise ValueError(f"matmul is {matmul!r}; it must be 'exact' or 'fast'")
    with ExitStack() as settings:
        settings.enter_context(_torch_computes(matmul))
        found = measured(device)
        if matmul == "exact" and found != "float32":
            variables = " and ".join(f"{name}={os.environ[name]}" for name in OVERRIDES if name in os.environ)
            cause = f"remove {variables} from the environment" if variables else "choose another device"
            raise InputError(
                f"matmul is exact, but {device.type} multiplies float32 matrices in {found} even when torch is set to full "
                f"precision; {cause}, or set matmul to fast"
            )
        if matmul == "fast" and found == "float32":
            logger.warning("matmul: fast has no effect: %s has no faster float32 products, so they are exact", _named(device))
            # Without AMX torch uses other float32 kernels for "medium", which sum in another order.
            settings.enter_context(_torch_computes("exact"))
        yield found


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute products of float32 matrices in float32 inside, whatever the settings; also a decorator of a function."""
    with _torch_computes("exact"):
        yield


@torch.no_grad()
def measured(device: torch.device) -> str:
    """The format in which a device multiplies float32 matrices now: float32, tf32 or bfloat16.

    It multiplies ones with numbers just above one, which a shorter format rounds to one: 1 + 2^-9 in bfloat16, 1 + 2^-12 in
    TF32 (and in float16, which has as many digits, so that the two cannot be distinguished).
    """
    ones = torch.ones(_WIDTH, _WIDTH, device=device)
    for name, digits in (("bfloat16", 9), ("tf32", 12)):
        if (ones @ (ones + 2.0**-digits))[0, 0].item() == _WIDTH:
            return name
    return "float32"


def _named(device: torch.device) -> str:
    return "this CPU (no AMX)" if device.type == "cpu" else f"device {device.type}"


@contextmanager
def _torch_computes(matmul: str) -> Iterator[None]:
    before = _Settings.read()
    try:
        _Settings.of(matmul).apply()
        yield
    finally:
        before.apply()


class _Settings:
    """torch's settings of float32 products, in its older interface (two switches) and its newer (one format per backend).

    torch raises on reading, and some kernels on running, if the two contradict each other, so both are set.

    Attributes:
        matmul: The older interface's name for products: highest, high or medium; None if torch does not return it.
        convolutions: The older interface's switch of TF32 in cuDNN; None if torch does not return it.
        formats: The newer interface's format of each backend and operation: ieee, tf32, bf16, or none, the backend's default.
    """

    def __init__(self, matmul: str | None, convolutions: bool | None, formats: dict[str, str]) -> None:
        self.matmul, self.convolutions, self.formats = matmul, convolutions, formats

    @classmethod
    def of(cls, matmul: str) -> _Settings:
        if matmul == "exact":
            return cls("highest", False, dict.fromkeys(_backends(), "ieee"))
        # What "medium" sets: the fastest format of each backend.
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
