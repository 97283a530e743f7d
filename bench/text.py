"""Text that is safe to show in a terminal."""


def to_one_line(text: str) -> str:
    """Return a text with blanks for what is not printable, lest it break the line or steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def to_printable(text: str) -> str:
    """Return a text in which nothing but its line ends is not printable."""
    return "\n".join(map(to_one_line, text.split("\n")))
