"""A part as a suite names it: ``em``, ``em(steps=5)`` or ``jpeg+cutmix``."""

import dataclasses
import json
import re
import tomllib
from functools import cached_property
from typing import Any

from bench.errors import BenchError, format_input
from bench.text import escape_bytes


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
        pieces = split_outside_brackets(text, "+")
        if len(pieces) > 1:
            parts = tuple(_parse_part(piece, text) for piece in pieces)
            return cls("+".join(part.name for part in parts), parts=parts)
        return _parse_part(text, text)

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


_NAME = re.compile(r"[\w.:-]+")

MAX_DEPTH = 20
"""Largest depth of lists and tables in a suite."""


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """Split a text at a character where it is neither in double quotes nor in brackets.

    Raises:
        BenchError: for a quote or a bracket that is not closed, or not opened.
    """
    pieces, start, depth, quoted = [], 0, 0, False
    characters = enumerate(text)
    for place, character in characters:
        if quoted:
            quoted = character != '"'
            if character == "\\":
                next(characters, None)
        elif character == '"':
            quoted = True
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == separator and not depth:
            pieces.append(text[start:place])
            start = place + 1
        if depth < 0:
            break
    if quoted or depth:
        raise _unreadable_error(text)
    return [*pieces, text[start:]]


def _unreadable_error(text: str) -> BenchError:
    return BenchError(f"cannot read {format_input(text)}; write a name, name(key=value, ...), or a+b")


def _parse_part(piece: str, text: str) -> Choice:
    """Parse a single part of a text."""
    name, bracket, rest = (each.strip() for each in piece.partition("("))
    if not _NAME.fullmatch(name) or (bracket and not rest.endswith(")")):
        raise _unreadable_error(text)
    params: dict[str, Any] = {}
    for param in filter(None, map(str.strip, split_outside_brackets(rest[:-1], ","))):
        key, equals, value = param.partition("=")
        if not equals:
            where = f"{format_input(param)} in {format_input(piece.strip())}"
            raise BenchError(f"cannot read {where}; write key=value")
        if key.strip() in params:
            raise BenchError(f"{format_input(piece.strip())} gives {format_input(key.strip())} twice")
        params[key.strip()] = parse_value(value)
    return Choice(name, tuple(sorted(params.items())))


def parse_value(text: str) -> Any:
    """Parse a TOML value (``3``, ``0.5``, ``true``, ``[1]``, ``"x"``); anything else is a string.

    Raises:
        BenchError: for a value that no suite can hold.
    """
    text = text.strip()
    try:
        document = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise BenchError(f"{format_input(text)} is refused: it is nested too deeply") from None
    except ValueError:
        document = {}
    value = document["value"] if len(document) == 1 else text
    if problem := find_unusable_value(value):
        raise BenchError(f"{format_input(text)} is refused: {problem}")
    return value


def find_unusable_value(value: Any, depth: int = 0) -> str | None:
    """Return why a suite cannot hold a value, None if it can."""
    if depth > MAX_DEPTH:
        return "it is nested too deeply"
    if isinstance(value, dict | list):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return next(filter(None, (find_unusable_value(each, depth + 1) for each in inner)), None)
    if isinstance(value, str) and value != escape_bytes(value):
        return f"{format_input(value)} is not UTF-8 text"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "a whole number has at most 64 bits"
    return None


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
