"""Whether this machine seems to have an accelerator, without importing torch, which takes seconds."""

from __future__ import annotations

from pathlib import Path

# Device files of the NVIDIA and AMD drivers.
_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd")


def expected(device: str) -> bool:
    """Whether a job with this ``device`` (of the config) may run on something other than the CPU."""
    if device == "auto":
        return any(Path(name).exists() for name in _DEVICES)
    return device != "cpu"
