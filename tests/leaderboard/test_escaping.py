"""Names on a board are text: no link, image, formula or control character of theirs works."""

import csv
import io
import json

import pytest
from markdown_it import MarkdownIt

from leaderboard.board import render_board
from leaderboard.formatting import escape_markdown
from leaderboard.frame import to_csv, to_frame, to_json
from tests.records import make_record

HOSTILE = (
    "![p](http://x.y/z.png)",
    "[a](http://x.y)",
    "[a][b]",
    "[a]: http://x.y",
    "<img src=x>",
    "<http://x.y>",
    "_a_ *b* ~~c~~ `d` $e$",
    "&lt;b&gt;",
    "a|b",
    "\\",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_is_shown_as_it_is_and_does_nothing(text: str) -> None:
    parser = MarkdownIt().enable(["table", "strikethrough"])
    for place in ("{}\n", "- {}\n", "# {}\n"):
        tokens = [
            token
            for block in parser.parse(place.format(escape_markdown(text)))
            for token in block.children or ()
        ]
        assert {token.type for token in tokens} <= {"text", "text_special"}
        assert "".join(token.content for token in tokens) == text


@pytest.mark.parametrize(
    "text", ['em(tasks=["left"])', "5_o_Clock_Shadow", "mtl-ue-em(rounds=2)", "a.b: c & d", "-0.12"]
)
def test_a_usual_name_is_not_changed(text: str) -> None:
    assert escape_markdown(text) == text


def test_addresses_do_not_become_links_by_themselves() -> None:
    assert escape_markdown("https://x.y www.x.y") == r"https\://x.y www\.x.y"


def test_control_characters_do_not_reach_a_board() -> None:
    assert escape_markdown("a\x1b[31mb\u202ec\nd\ud800e") == "a [31mb c d e"


def test_no_image_of_a_name_is_on_a_board() -> None:
    name = "![p](http://x.y)"
    records = [make_record({name: 0.5}, attack=attack) for attack in ("clean", f'em(tasks=["{name}"])')]
    board = render_board(records, left_out=[name])
    assert r"![p\](http\://x.y)" in board
    tokens = MarkdownIt().enable("table").parse(board)
    assert not {"image", "link_open", "html_inline"} & {
        child.type for each in tokens for child in each.children or ()
    }


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x.y")', "+1", "-1", "@a", "\t=a", "\r=a"])
def test_a_spreadsheet_sees_no_formula(name: str) -> None:
    text = to_csv(to_frame([make_record({name: 0.5})]))
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["task"] == "'" + name.replace("\t", " ").replace("\r", " ")
    assert float(row["score"]) == 0.5


def test_json_has_every_name_as_it_is_and_no_control_character() -> None:
    name = "é\x9b31m\u202e="
    text = to_json(to_frame([make_record({name: 0.5})]))
    assert json.loads(text)[0]["task"] == name
    assert "é" in text
    assert all(line.isprintable() for line in text.splitlines())
