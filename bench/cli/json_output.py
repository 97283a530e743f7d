"""What ``--json`` prints: one JSON document on standard output."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document.

    Data classes become objects, paths text, and numbers that are not finite null. Characters other than ASCII
    are escaped, so that no text of a file or a part can control a terminal.
    """
    print(json.dumps(_to_json(document), indent=2, allow_nan=False))


def _to_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _to_json(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return [_to_json(entry) for entry in value] if isinstance(value, Iterable) else str(value)
