"""Whether this machine seems to have an accelerator, told without torch, which knows for sure but takes seconds to import."""

from __future__ import annotations

from pathlib import Path

# What the drivers of NVIDIA and AMD put there.
_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd")


def expected(device: str) -> bool:
    """Whether a job with this ``device`` (of the config) may run on something else than the CPU."""
    if device == "auto":
        return any(Path(name).exists() for name in _DEVICES)
    return device != "cpu"
