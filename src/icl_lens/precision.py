"""Number formats."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is wider: what is summed or exponentiated is never half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
