import pytest

from bench.text import format_bytes, format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (31.24, "31.2 s"),
        (59.97, "1 min"),
        (250, "4 min 10 s"),
        (3599.6, "1 h"),
        (7500, "2 h 5 min"),
        (3605, "1 h"),
        (97200, "1 d 3 h"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "spelled"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.5, "1 kB"),
        (999_400, "999 kB"),
        (999_700, "1 MB"),
        (1_346_000_000, "1.35 GB"),
        (123_400_000_000_000, "123 TB"),
    ],
)
def test_bytes_are_spelt_in_three_digits(count: float, spelled: str) -> None:
    assert format_bytes(count) == spelled
