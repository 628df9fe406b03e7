"""Names of the number formats of weights and activations, and of matrix products."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["float32", "float16", "bfloat16"]
Matmul = Literal["exact", "fast"]
