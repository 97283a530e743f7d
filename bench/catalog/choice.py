"""A part as a suite names it: ``em``, ``em(steps=5)`` or ``jpeg+cutmix``."""

import dataclasses
import json
import re
import tomllib
from typing import Any

from bench.errors import BenchError


@dataclasses.dataclass(frozen=True)
class Choice:
    """A part as a suite names it: ``em`` or, with overrides, ``em(steps=5)``, or several, ``jpeg+cutmix``.

    Attributes:
        name: the part's; of several, their names joined.
        params: overrides; of several each has its own.
        parts: the several, in order; none where it is one.
    """

    name: str
    params: tuple[tuple[str, Any], ...] = ()
    parts: tuple["Choice", ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """Read ``name`` or ``name(key=value, ...)``, values in TOML's spelling or as bare words; or several.

        Raises:
            BenchError: when the text has another form.
        """
        if _SEVERAL.fullmatch(text):
            parts = tuple(map(cls.parse, _ONE.findall(text)))
            return cls("+".join(part.name for part in parts), parts=parts)
        match = re.fullmatch(r"\s*([\w.:-]+)\s*(?:\((.*)\))?\s*", text)
        if not match:
            raise BenchError(f"cannot read {text!r}; write a name, name(key=value, ...), or a+b")
        name, inner = match.groups()
        return cls(name, tuple(sorted(_read_params(inner or "", text).items())))

    @property
    def label(self) -> str:
        """The canonical spelling, which `parse` reads back."""
        if self.parts:
            return "+".join(part.label for part in self.parts)
        inner = ", ".join(f"{key}={write_value(value)}" for key, value in self.params)
        return f"{self.name}({inner})" if inner else self.name


_STRING = r'"(?:\\.|[^"\\])*"'

_ITEM = re.compile(rf'(?:{_STRING}|\[(?:{_STRING}|[^\]"])*\]|[^,"\[])+')
"""One ``key=value``: commas inside of strings and lists do not end it."""

_ONE = re.compile(rf'[\w.:-]+(?:\s*\((?:{_STRING}|[^"()])*\))?')

_SEVERAL = re.compile(rf"\s*{_ONE.pattern}\s*(?:\+\s*{_ONE.pattern}\s*)+")
"""Names, each with its parameters, joined by +; a + inside of parentheses joins nothing."""


def _read_params(inner: str, text: str) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for item in filter(None, (piece.strip() for piece in _ITEM.findall(inner))):
        key, equals, value = item.partition("=")
        if not equals:
            raise BenchError(f"cannot read {item!r} in {text!r}; write key=value")
        params[key.strip()] = read_value(value)
    return params


def read_value(text: str) -> Any:
    """Read a value in TOML's spelling (``3``, ``0.5``, ``true``, ``[1]``, ``"x"``), else as a bare word."""
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def write_value(value: Any) -> str:
    """Spell a value so that `read_value` returns it."""
    if isinstance(value, str) and (read_value(value) != value or not re.fullmatch(r"[\w.:/-]+", value)):
        return _quote(value)
    if isinstance(value, list | tuple):
        return (
            f"[{', '.join(_quote(item) if isinstance(item, str) else write_value(item) for item in value)}]"
        )
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
