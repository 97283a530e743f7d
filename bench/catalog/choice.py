"""A part as a suite names it: ``em``, ``em(steps=5)`` or ``jpeg+cutmix``."""

import dataclasses
import json
import re
import tomllib
from functools import cached_property
from typing import Any

from bench.errors import BenchError


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """A part as a suite names it: ``em``, with parameters ``em(steps=5)``, or composed ``jpeg+cutmix``.

    Two choices are equal if their labels are.

    Attributes:
        name: the part's name; of a composition, the names of its parts joined by +.
        params: the parameters that are given, by name; those of a composition are with its parts.
        parts: the parts of a composition, in order; empty for a single part.
    """

    name: str
    params: tuple[tuple[str, Any], ...] = ()
    parts: tuple["Choice", ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """Parse ``name``, ``name(key=value, ...)`` or ``a+b``; values are TOML or bare words.

        Raises:
            BenchError: when the text has another form.
        """
        if _COMPOSITION.fullmatch(text):
            parts = tuple(map(cls.parse, _PART.findall(text)))
            return cls("+".join(part.name for part in parts), parts=parts)
        match = re.fullmatch(r"\s*([\w.:-]+)\s*(?:\((.*)\))?\s*", text)
        if not match:
            raise BenchError(f"cannot read {text!r}; write a name, name(key=value, ...), or a+b")
        name, params = match.groups()
        return cls(name, tuple(sorted(_parse_params(params or "", text).items())))

    @cached_property
    def label(self) -> str:
        """The canonical text, which `parse` turns into this choice again."""
        if self.parts:
            return "+".join(part.label for part in self.parts)
        params = ", ".join(f"{key}={format_value(value)}" for key, value in self.params)
        return f"{self.name}({params})" if params else self.name

    def __str__(self) -> str:
        return self.label

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and self.label == other.label

    def __hash__(self) -> int:
        return hash(self.label)  # a parameter may be a list, which has no hash


_STRING = r'"(?:\\.|[^"\\])*"'

_PARAM = re.compile(rf'(?:{_STRING}|\[(?:{_STRING}|[^\]"])*\]|[^,"\[])+')
"""One ``key=value``; a comma in a string or a list does not end it."""

_PART = re.compile(rf'[\w.:-]+(?:\s*\((?:{_STRING}|[^"()])*\))?')

_COMPOSITION = re.compile(rf"\s*{_PART.pattern}\s*(?:\+\s*{_PART.pattern}\s*)+")
"""Parts joined by ``+``; a ``+`` in parentheses is not a separator."""


def _parse_params(params: str, text: str) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for param in filter(None, (piece.strip() for piece in _PARAM.findall(params))):
        key, equals, value = param.partition("=")
        if not equals:
            raise BenchError(f"cannot read {param!r} in {text!r}; write key=value")
        parsed[key.strip()] = parse_value(value)
    return parsed


def parse_value(text: str) -> Any:
    """Parse a TOML value (``3``, ``0.5``, ``true``, ``[1]``, ``"x"``); anything else is a string."""
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def format_value(value: Any) -> str:
    """Return the text that `parse_value` turns into this value again."""
    if isinstance(value, str) and (parse_value(value) != value or not re.fullmatch(r"[\w.:/-]+", value)):
        return _quote(value)
    if isinstance(value, list | tuple):
        items = (_quote(item) if isinstance(item, str) else format_value(item) for item in value)
        return f"[{', '.join(items)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
