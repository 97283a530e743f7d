"""Text for a terminal: without characters that could control it; durations and sizes for people.

humanize spells "4 minutes and 10 seconds" and "31.24 seconds", which is too long for a table and too precise.
"""


def to_one_line(text: str) -> str:
    """Replace what is not printable by blanks: it could break the line or control the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def to_printable(text: str) -> str:
    """Replace what is not printable by blanks, except for the ends of lines."""
    return "\n".join(map(to_one_line, text.split("\n")))


def escape_bytes(text: str) -> str:
    r"""Escape what Python puts in place of bytes that are not UTF-8, as in names of files: ``\udcff``."""
    return text.encode(errors="backslashreplace").decode()


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``31.2 s``, ``4 min 10 s``, ``2 h 5 min``, ``1 d 3 h``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    pieces: list[tuple[int, str]] = []
    rest = round(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, size)
        if count or pieces:
            pieces.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in pieces[:2] if count)


def format_bytes(count: float) -> str:
    """Return a number of bytes in the unit that suits it: ``512 kB``, ``1.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
