"""Detection of an accelerator without importing torch, because the import takes seconds."""

from __future__ import annotations

from pathlib import Path

# Device files of the NVIDIA and AMD drivers.
_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd")


def expected(device: str) -> bool:
    """Return whether a job with this ``device`` (from the config) may run on a device other than the CPU."""
    if device == "auto":
        return any(Path(name).exists() for name in _DEVICES)
    return device != "cpu"
