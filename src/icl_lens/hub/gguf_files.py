"""A reader for the headers of GGUF files that checks whether the files are intact and needs no GGUF library.

The format is defined by ggml (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version, two counts, key-value
pairs, list of tensors (name, dimensions, type, offset), padding, and tensor data. The reader does not read the tensor data.
"""

from __future__ import annotations

import mmap
import shutil
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from icl_lens.errors import InputError

VERSIONS = (2, 3)

# Tensor types of ggml: number -> name, weights per block, bytes per block.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

# Values of `general.file_type`, the type of the whole file: llama.cpp's `llama_ftype` without the prefix MOSTLY_ or ALL_.
FILE_TYPES: dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
}

# Unquantised types.
FLOATS = ("F32", "F16", "BF16")

# Fixed-size value types: number -> format character of `struct`.
_VALUES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file.

    Attributes:
        architecture: Name of the architecture in ggml, such as ``gemma3``.
        quantisation: Quantisation of the whole file, such as ``Q4_K_M``, from ``general.file_type``. If that key is missing or
            has an unknown value, the types of the matrices, the most frequent first, joined by "and".
        parameters: Number of weights.
        layers: Number of layers that the header states; None if it does not state one.
        entries: Number of entries in the tokenizer's vocabulary.
        vocab_size: Number of embedding rows that the header states; None if it does not state one.
        vocabulary: Byte range (start, end) of each key-value pair that contains a list of the tokenizer; the end is exclusive.
        pairs: Number of key-value pairs.
        infos: Byte range (start, end) of the list of tensors.
        data: Byte offset of the tensor data.
        alignment: Alignment of the tensor data in bytes; ``data`` is a multiple of it.
    """

    architecture: str
    quantisation: str
    parameters: int
    layers: int | None
    entries: int
    vocab_size: int | None
    vocabulary: tuple[tuple[int, int], ...]
    pairs: int
    infos: tuple[int, int]
    data: int
    alignment: int


def check(path: Path | str) -> Header:
    """Return the header of a GGUF file, and check that the file contains a complete model with its tokenizer.

    Args:
        path: Path of the file.

    Raises:
        InputError: The file does not exist; it is not a GGUF file, or it is truncated or corrupted; it is one of several parts;
            it has an unsupported version or tensor type; or it has no architecture, no weights or no tokenizer.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a GGUF file; specify the path of the .gguf file")
    if not path.is_file():
        raise InputError(f"GGUF file {path} does not exist")
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise InputError(f"{path} is not a GGUF file: it does not begin with GGUF")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(path, content).header()
    except OSError as error:
        raise InputError(f"GGUF file {path} cannot be read ({error.strerror or error})") from error
    except struct.error as error:
        raise InputError(_truncated(path)) from error
    except UnicodeDecodeError as error:
        raise InputError(f"GGUF file {path} is corrupted (a name in its header is not text); fetch it again") from error


def write_without_vocabulary(path: Path | str, header: Header, out: Path | str) -> None:
    """Copy a GGUF file without the lists of its tokenizer.

    Some readers create an object for each entry of these lists. Without the lists, they need less memory.

    Args:
        path: Path of the file.
        header: Result of :func:`check` for this file.
        out: Path of the copy.
    """
    with Path(path).open("rb") as source, Path(out).open("wb") as target:
        magic_version_tensors = source.read(16)
        target.write(magic_version_tensors + struct.pack("<Q", header.pairs - len(header.vocabulary)))
        position = 24
        for start, end in (*header.vocabulary, (header.infos[1], header.infos[1])):
            source.seek(position)
            target.write(source.read(start - position))
            position = end
        target.write(bytes(-target.tell() % header.alignment))
        source.seek(header.data)
        shutil.copyfileobj(source, target, 1 << 22)


class _Reader:
    """Reads one header sequentially; raises struct.error when it reads past the end of the file."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path, self.content, self.position = path, content, 4

    def header(self) -> Header:
        version = self.number("I")
        if version not in VERSIONS:
            raise InputError(
                f"GGUF file {self.path} has version {version}, but icl-lens reads only versions 2 and 3 (little-endian); "
                "convert it with a current version of llama.cpp"
            )
        tensors, pairs = self.number("Q"), self.number("Q")
        facts: dict[str, Any] = {}
        lists = []
        for _ in range(pairs):
            pair_start = self.position
            key, kind = self.string(), self.number("I")
            facts[key] = self.value(kind)
            if kind == _ARRAY and key.startswith("tokenizer."):
                lists.append((pair_start, self.position))
        infos_start = self.position
        type_counts: Counter[str] = Counter()
        parameters, end = 0, 0
        for _ in range(tensors):
            name, shape = self.string(), [self.number("Q") for _ in range(self.number("I"))]
            kind, offset = self.number("I"), self.number("Q")
            if kind not in TENSOR_TYPES:
                raise InputError(
                    f"GGUF file {self.path}: tensor {name} has the unsupported ggml type {kind}; use another GGUF file"
                )
            type_name, weights, size = TENSOR_TYPES[kind]
            parameters += prod(shape)
            end = max(end, offset + prod(shape) // weights * size)
            type_counts[type_name] += len(shape) > 1
        alignment = facts.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise InputError(f"GGUF file {self.path} is corrupted (general.alignment is {alignment!r}); fetch it again")
        self.require_complete(facts, tensors)
        start = -(-self.position // alignment) * alignment
        if start + end > len(self.content):
            raise InputError(_truncated(self.path, start + end, len(self.content)))

        def architecture_value(key: str) -> int | None:
            value = facts.get(f"{facts['general.architecture']}.{key}")
            return value if isinstance(value, int) else None

        return Header(
            architecture=facts["general.architecture"],
            quantisation=self.quantisation(facts, type_counts),
            parameters=parameters,
            layers=architecture_value("block_count"),
            entries=facts["tokenizer.ggml.tokens"],
            vocab_size=architecture_value("vocab_size"),
            vocabulary=tuple(lists),
            pairs=pairs,
            infos=(infos_start, self.position),
            data=start,
            alignment=alignment,
        )

    def require_complete(self, facts: dict[str, Any], tensors: int) -> None:
        """Require a complete model.

        Raises:
            InputError: The file is one of several parts, or it has no architecture, no weights or no tokenizer.
        """
        parts = facts.get("split.count", 0)
        if isinstance(parts, int) and parts > 1:
            raise InputError(
                f"GGUF file {self.path} is one of {parts} parts of a model; merge them (llama.cpp's "
                "`llama-gguf-split --merge FIRST_PART WHOLE_FILE`) and use the merged file"
            )
        if not isinstance(facts.get("general.architecture"), str):
            raise InputError(f"GGUF file {self.path} is not a model: general.architecture is missing")
        if not tensors:
            raise InputError(f"GGUF file {self.path} contains only a header and no weights; use the file of the whole model")
        if not facts.get("tokenizer.ggml.tokens"):
            raise InputError(
                f"GGUF file {self.path} has no tokenizer (tokenizer.ggml.tokens); use a file of the model that has one"
            )

    @staticmethod
    def quantisation(facts: dict[str, Any], type_counts: Counter[str]) -> str:
        name = FILE_TYPES.get(facts.get("general.file_type", -1))
        if name is not None:
            return name
        return " and ".join(name for name, count in type_counts.most_common() if count) or "F32"

    def value(self, kind: int) -> Any:
        """Read a value; for an array, skip the entries and return their number."""
        if kind in _VALUES:
            return self.number(_VALUES[kind])
        if kind == _STRING:
            return self.string()
        inner, count = (self.number("I"), self.number("Q")) if kind == _ARRAY else (kind, 0)
        if inner in _VALUES:
            self.skip(count * struct.calcsize(f"<{_VALUES[inner]}"))
        elif inner == _STRING:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise InputError(
                f"GGUF file {self.path} is corrupted (its header contains a value of type {inner}); fetch it again"
            )
        return count

    def number(self, letter: str) -> Any:
        (value,) = struct.unpack_from(f"<{letter}", self.content, self.position)
        self.position += struct.calcsize(f"<{letter}")
        return value

    def string(self) -> str:
        start = self.position + 8
        self.skip(self.number("Q"))
        return self.content[start : self.position].decode("utf-8")

    def skip(self, count: int) -> None:
        self.position += count
        if self.position > len(self.content):
            raise struct.error


def _truncated(path: Path, needed: int | None = None, found: int | None = None) -> str:
    sizes = "the header is incomplete" if needed is None else f"expected {needed:,} bytes, found {found:,}"
    return f"GGUF file {path} is truncated ({sizes}); fetch or copy it again"
