"""Tensor files for use outside a results folder: safetensors with a header that describes their content.

The header is JSON under a key of the file's metadata. It contains a hash of the tensors, because safetensors has no checksum
and would read a flipped byte as a number. Files are written atomically.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from icl_lens import json_text
from icl_lens.artifacts.files import unreadable, whole_file
from icl_lens.errors import InputError

# Errors of safetensors for a type of numbers that the framework lacks.
_UNKNOWN_TYPE = (TypeError, ValueError, AttributeError, KeyError)

Header = TypeVar("Header", bound=BaseModel)


@dataclass(frozen=True)
class Kind(Generic[Header]):
    """A kind of tensor file.

    Attributes:
        key: The key of the header in the file's metadata.
        version: Version of the format. It increases if the meaning of the header or of a tensor changes.
        header: Class of the header. Its fields include ``format`` (the version) and ``content`` (the hash).
        framework: Type of the tensors: ``pt`` for torch tensors, ``numpy`` for NumPy arrays.
        missing_hint: What to do about a missing file, for the error message.
        kind_error: Error message for a file of another kind, after its path.
        format_name: Name of the format in error messages.
    """

    key: str
    version: int
    header: type[Header]
    framework: Literal["pt", "numpy"]
    missing_hint: str
    kind_error: str
    format_name: str

    def write(self, path: Path | str, tensors: Mapping[str, Any], **fields: object) -> Header:
        """Write a file.

        Args:
            path: The file.
            tensors: Name -> tensor, contiguous and on the CPU.
            fields: The fields of the header other than ``format`` and ``content``.

        Returns:
            The header of the file.
        """
        if self.framework == "pt":
            from safetensors.torch import save_file
        else:
            from safetensors.numpy import save_file
        header = self.header(format=self.version, content=_content_hash(tensors), **fields)
        with whole_file(path) as temporary:
            save_file(dict(tensors), temporary, metadata={self.key: header.model_dump_json()})
        return header

    def read_header(self, path: Path | str) -> Header:
        """Read only the header.

        Raises:
            InputError: The file is missing or corrupted, or it has another kind or another version of the format.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path} does not exist; {self.missing_hint}")
        packed = self._metadata(path).get(self.key)
        if packed is None:
            raise InputError(f"{path} {self.kind_error}: it is a safetensors file of another kind")
        try:
            content = json_text.loads(packed)
            version = content.get("format") if isinstance(content, dict) else None
            if isinstance(version, int) and version != self.version:
                raise InputError(
                    f"{path} has version {version} of {self.format_name}, but this version of icl-lens reads version "
                    f"{self.version}; create the file again"
                )
            return self.header.model_validate_json(packed)
        except (ValidationError, ValueError) as error:
            raise InputError(f"{path} is corrupted: its header cannot be read; create the file again") from error

    def read_tensors(self, path: Path | str, header: Header, names: Iterable[str]) -> dict[str, Any]:
        """Read the tensors and check them against the hash in the header.

        Args:
            path: The file.
            header: The header of the file.
            names: Names of all tensors in the file.

        Raises:
            InputError: A tensor is missing or corrupted.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework=self.framework) as file:
                tensors = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError, *_UNKNOWN_TYPE) as error:
            raise _cannot_read(error, path) from error
        if _content_hash(tensors) != header.content:
            raise corrupted(path)
        return tensors

    def _metadata(self, path: Path) -> dict[str, str]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework=self.framework) as file:
                return file.metadata() or {}
        except (SafetensorError, OSError) as error:
            if unreadable(error, path):
                raise _cannot_read(error, path) from error
            # If the key is near the beginning, the file is a corrupted file of this kind and not a file of another kind.
            with path.open("rb") as stream:
                has_key = self.key.encode() in stream.read(64)
            if has_key:
                raise corrupted(path) from error
            raise InputError(f"{path} {self.kind_error}: it is not a safetensors file") from error


def _cannot_read(error: Exception, path: Path | str) -> InputError:
    sentence = unreadable(error, path)
    return InputError(sentence) if sentence else corrupted(path)


def corrupted(path: Path | str) -> InputError:
    """Return the error for a file with tensors that differ from those that were written."""
    return InputError(f"{path} is corrupted or truncated; create it again or copy it again")


def inconsistent(path: Path | str) -> InputError:
    """Return the error for a file with contradictory values in its header."""
    return InputError(f"{path} is corrupted: its header is inconsistent; create the file again")


def _content_hash(tensors: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Any) -> bytes:
    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor).tobytes()
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()  # NumPy has no bfloat16
