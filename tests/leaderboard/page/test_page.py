"""What the files of the page hold."""

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from bench.example_images import ExampleImages
from bench.record import Record
from bench.record_archive import encode_archive
from leaderboard.page.browser_data import FILTER_AXES
from leaderboard.page.build import render_web_page
from leaderboard.page.content import CELLS_PER_FILE
from leaderboard.page.cost_plot import place_costs
from leaderboard.page.folder import MARKER
from leaderboard.page.heat_view import LEVELS
from leaderboard.page.ranking_view import view_rankings
from leaderboard.summary import rank_records
from tests.leaderboard.page.page_records import add_curve, page, page_without_jpeg, records
from tests.records import make_record, matrix


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text outside of scripts."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def script(name: str, files: dict[str, bytes] | None = None) -> Any:
    """Return the value in a file of data."""
    text = (files or page())[f"data/{name}.js"].decode()
    return json.loads(text.removeprefix(f'mtlue.data["{name}"]=').removesuffix(";\n"))


def html_files(files: dict[str, bytes]) -> dict[str, Elements]:
    return {name: Elements(content) for name, content in files.items() if name.endswith(".html")}


def test_a_page_per_attack_and_a_page_for_cells() -> None:
    expected = {"index.html", "cells.html", "cell.html"}
    expected |= {
        f"attack-{attack}.html" for attack in ("clean", "em", "mtl-ue-em", "tap", "rem", "cuda", "sep")
    }
    assert {name for name in page() if name.endswith(".html")} == expected


def test_every_address_leads_to_a_file_of_the_page() -> None:
    for name, elements in html_files(page()).items():
        for tag, attributes in elements.found:
            for address in filter(None, (attributes.get("href"), attributes.get("src"))):
                assert address.startswith("#") or address.partition("#")[0] in page(), (name, tag, address)


def test_ids_are_unique_and_labels_exist() -> None:
    for name, elements in html_files(page()).items():
        ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
        assert len(ids) == len(set(ids)), name
        used = {attributes.get("aria-labelledby") for _, attributes in elements.found} - {None}
        assert used <= set(ids), name


def test_nothing_is_allowed_inline() -> None:
    for name, elements in html_files(page()).items():
        for tag, attributes in elements.found:
            assert tag != "style", name
            assert not [key for key in attributes if key == "style" or key.startswith("on")], (name, tag)
            if tag == "script":
                assert "src" in attributes or attributes["type"] == "application/json"
        policies = [value["content"] for tag, value in elements.found if value.get("http-equiv")]
        assert len(policies) == 1
        assert policies[0]
        assert "unsafe" not in policies[0]


def test_the_index_shows_the_ranking_without_scripts() -> None:
    text = " ".join(html_files(page())["index.html"].text.split())
    assert text.index("mtl-ue-em 0.57") < text.index("tap 0.37") < text.index("em 0.27")
    assert "Attack × defense" in text
    assert "One file is damaged." in text
    assert "Attacks that share a letter cannot be ordered by 3 seeds" in text


def test_letters_name_the_groups() -> None:
    tracks = {track.track: track for track in view_rankings(rank_records(records()))}
    letters = {row.attack: row.group for row in tracks["linf"].rows}
    groups = rank_records(records()).orders["linf"].groups
    assert groups
    for group in groups:
        assert set.intersection(*(set(letters[attack]) for attack in group))


def test_the_same_records_in_another_order_are_the_same_bytes() -> None:
    shuffled = list(records())
    random.Random(0).shuffle(shuffled)
    assert render_web_page(rank_records(shuffled, ["One file is damaged."]), shuffled) == page()


def test_an_archive_makes_a_page_without_curves() -> None:
    without = [replace(record, curve=[]) for record in records()]
    assert encode_archive(without)
    files = render_web_page(rank_records(without))
    assert "The records of this page have no curves" in Elements(files["attack-em.html"]).text
    assert "curve" not in next(iter(script("cells-0", files)["cells"].values()))


def test_a_board_without_a_finished_cell() -> None:
    files = render_web_page(rank_records([record for record in records() if record.status == "failed"]))
    assert "No cell is finished yet" in Elements(files["index.html"]).text
    assert "out of memory" in Elements(files["index.html"]).text


def test_protection_follows_from_the_games() -> None:
    """What the browser computes from `games` is the ranking, and so it is for some of the cells."""
    data = script("ranking")
    expected = {row["attack"]: row["protection"] for rows in data["tracks"].values() for row in rows}
    assert protection_of_games(data) == pytest.approx(expected)
    tracks = script("ranking", page_without_jpeg())["tracks"]
    rows = [row for of_track in tracks.values() for row in of_track]
    some = protection_of_games(data, {"defense": {"none", "grayscale"}})
    assert some == pytest.approx({row["attack"]: row["protection"] for row in rows})


def protection_of_games(data: Any, kept: dict[str, set[str]] | None = None) -> dict[str, float]:
    """Return protection by attack, as ranking.js computes it."""
    labels, games = data["labels"], data["games"]
    named = [
        {axis: labels[axis][games[axis][row]] for axis in ("attack", *FILTER_AXES)}
        | {"u": games["share"][row]}
        for row in range(len(games["attack"]))
    ]
    shown = [game for game in named if all(game[axis] in values for axis, values in (kept or {}).items())]

    def setting(game: Any) -> tuple[str, ...]:
        return tuple(game[axis] for axis in FILTER_AXES[:4])

    clean = {(*setting(game), game["defense"]): game["u"] for game in named if game["attack"] == "clean"}
    protections: dict[str, dict[Any, float]] = {}
    for attack in labels["attack"]:
        for place in {setting(game) for game in shown if game["attack"] == attack}:
            choices = [game for game in shown if game["attack"] == attack and setting(game) == place]
            best = max(clean[*place, defense] for defense in {"none", *(game["defense"] for game in choices)})
            most = max(game["u"] for game in choices)
            protections.setdefault(attack, {})[place] = 1 - most / best
    return {attack: sum(of.values()) / len(of) for attack, of in protections.items()}


def test_cells_are_found_by_their_address() -> None:
    data = script("cells")
    assert len(data["pages"]) == len(records())
    for place, key in enumerate(data["pages"]):
        cells = script(f"cells-{place // CELLS_PER_FILE}")["cells"]
        assert cells[key]["labels"][1] == data["labels"]["attack"][data["axes"]["attack"][place]]


def test_a_cell_has_what_reproduces_it() -> None:
    cell = next(
        cell
        for cell in script("cells-0")["cells"].values()
        if cell["labels"] == ["digits", "em", "small", "ew", "jpeg", "mtl", 1]
    )
    assert (cell["suite"], cell["protocol"]) == ("synthetic", 2)
    assert cell["clean"].startswith("cell.html#0:")
    shared = script("cells-0")["shared"]
    assert shared[cell["tasks"]] == [["a", "accuracy"], ["b", "accuracy"]]
    assert [column[0] for column in cell["scores"]][:3] == pytest.approx([0.89, 0.95, 0.5])
    assert cell["curve"]["mean"][-1] == pytest.approx(0.73, abs=1e-3)


def test_forty_tasks_are_rows() -> None:
    scores = {f"task-{number}": 0.9 for number in range(40)}
    many = [make_record(scores, attack=attack) for attack in ("clean", "em")]
    text = render_web_page(rank_records(many))["attack-em.html"].decode()
    assert all(f'<th scope="row">{task}</th>' in text for task in scores)


def test_example_images_are_shown_once() -> None:
    images = np.random.default_rng(0).integers(0, 200, (4, 3, 6, 6)).astype(np.uint8)
    examples = ExampleImages(np.arange(4), images, images + np.uint8(8), 12)
    files = render_web_page(rank_records(records()), read_examples=lambda _: examples)
    elements = Elements(files["attack-em.html"])
    sources = [value["src"] for tag, value in elements.found if tag == "img"]
    assert len(sources) == 3 * 2
    assert len({name for name in files if name.startswith("images/")}) == 3
    assert all(source in files for source in sources)
    assert "δ × 15.9" in elements.text
    assert "Shrunk" in elements.text
    assert "no example images" in Elements(page()["attack-em.html"]).text


def test_colors_are_those_of_viridis() -> None:
    css = page()["assets/page.css"].decode()
    for level in range(LEVELS + 1):
        red, green, blue = (round(255 * part) for part in mpl.colormaps["viridis"](level / LEVELS)[:3])
        assert f".h{level} {{ background: #{red:02x}{green:02x}{blue:02x};" in css


def test_the_front_has_no_attack_below_it() -> None:
    track = view_rankings(rank_records(records()))[0]
    plot = place_costs(track)
    assert plot
    for point in plot.points:
        is_beaten = any(other.x <= point.x and other.y < point.y for other in plot.points)
        assert point.is_on_front == (not is_beaten), point.attack


HOSTILE = "</script><script>alert(1)</script>\"'&]]>javascript:alert(1)\x1b[31m\u202e\x00"


def hostile_records() -> list[Record]:
    """Return records with markup in every name."""
    labels: dict[str, Any] = {
        axis: f"{HOSTILE}{axis}" for axis in ("dataset", "backbone", "weighting", "defense", "regime")
    }
    made = []
    for attack in ("clean", f"{HOSTILE}attack", "em"):
        for defense in ("none", labels["defense"]):
            record = make_record({HOSTILE: 0.9, "b": 0.8}, attack=attack, **labels | {"defense": defense})
            changes: dict[str, Any] = {
                "key": f"{HOSTILE}{len(made)}",
                "suite": HOSTILE,
                "finished": HOSTILE,
                "victim": HOSTILE + defense,
                "poison": HOSTILE + attack,
                "environment": {HOSTILE: HOSTILE, "source": {"commit": HOSTILE, "clean": False}},
                "settings": record.settings | {HOSTILE: [HOSTILE]},
                "cost": record.cost | {HOSTILE: record.cost["train"]},
            }
            made.append(replace(record, **changes))
    error = {"type": HOSTILE, "message": HOSTILE, "traceback": f"{HOSTILE}\ud800"}
    return [
        *made,
        replace(made[0], key="failed", status="failed", cell=made[0].cell | {"seed": 9}, error=error),
    ]


def test_markup_in_names_stays_text() -> None:
    files = render_web_page(rank_records(hostile_records(), [HOSTILE]))
    usual = html_files(page())
    for name, content in files.items():
        assert re.fullmatch(r"[\w./-]+", name)
        if not name.endswith(".html"):
            continue
        elements = Elements(content)
        scripts = [value for tag, value in elements.found if tag == "script"]
        assert len(scripts) <= max(
            len([tag for tag, _ in other.found if tag == "script"]) for other in usual.values()
        )
        assert not [
            value for _, value in elements.found if (value.get("href") or "").startswith("javascript")
        ]
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", content.decode())
    for name in files:
        if name.startswith("data/"):
            assert b"<" not in files[name]
            script(name.removeprefix("data/").removesuffix(".js"), files)
            text = files[name].decode().rstrip("\n")
            assert text.isprintable(), name
            assert not re.search(r"\\[bfrt]|\\u(?!00(3c|3e|26))", text), name


def test_the_page_of_180_cells_is_small() -> None:
    """Under 3 MB with curves of 60 epochs, as a suite of 180 cells has them."""
    learned = dict.fromkeys(("clean", *(f"em(steps={n})" for n in range(5))), LEARNED_OF_MANY)
    many = [add_curve(record) for record in matrix(learned, seeds=5)]
    many = [
        replace(
            record,
            curve=[dict(point, epoch=20 * n + point["epoch"]) for n in range(20) for point in record.curve],
        )
        for record in many
    ]  # type: ignore[misc]
    assert len(many) == 180
    files = render_web_page(rank_records(many), many)
    assert sum(map(len, files.values())) < 3_000_000


LEARNED_OF_MANY = {
    defense: [0.1, 0.2, 0.3, 0.4] for defense in ("none", "jpeg", "cutout", "mixup", "cutmix", "median")
}


def test_the_marker_lists_all_files() -> None:
    assert set(page()[MARKER].decode().splitlines()) == set(page())
