"""Parser of the user's YAML: any text gives a value or a one-line error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from icl_lens.errors import InputError
from icl_lens.short_repr import one_line, reason, short_repr


def loads(name: str, text: str) -> Any:
    """Parse YAML. Unlike :func:`yaml.safe_load`, a duplicate key is an error, because only its last value would count.

    Args:
        name: Name of the file or option, for error messages.
        text: The YAML.

    Raises:
        InputError: The text is not valid YAML, or has a duplicate key.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise InputError(f"{name} is not valid YAML: {one_line(error.problem or str(error.context), 200)}{place}") from error
    except RecursionError as error:
        raise InputError(f"{name} is not valid YAML: it is nested too deeply") from error
    # Besides its own errors, the library raises those of conversions, such as of `2001-13-99` to a date or of `!!bool x`.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise InputError(f"{name} is not valid YAML: a value is invalid ({reason(error)}); put it in quotes") from error


def read(path: Path | str) -> Any:
    """Parse a YAML file.

    Raises:
        InputError: The file cannot be read or is not UTF-8 text, or :func:`loads` rejects it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return loads(str(path), text)


class _Loader(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(problem=f"duplicate key {short_repr(key.value)}", problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node
