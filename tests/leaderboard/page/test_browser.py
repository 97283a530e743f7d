"""The page in a real browser: opened from disk, used with clicks and keys."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaderboard.page.build import render_web_page
from leaderboard.page.folder import write_page
from leaderboard.summary import rank_records
from tests.leaderboard.page.page_records import page, page_without_jpeg
from tests.leaderboard.page.test_page import hostile_records, script

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.xdist_group("browser")


def find_browser() -> str | None:
    """Return the program of an installed Chromium; None for the one that playwright has installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        try:
            made = started.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser can be started: {str(error).splitlines()[0]}")
        yield made
        made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "page"
    write_page(folder, page())
    return folder


class Watched:
    """A tab that collects what must not happen: messages on the console, and requests to a network."""

    def __init__(self, browser: Any, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(5000)
        self.complaints: list[str] = []
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(dialog.message) or dialog.dismiss())
        self.tab.on("request", self._check_request)

    def _check_request(self, request: Any) -> None:
        if not request.url.startswith(("file://", "data:")):
            self.complaints.append(f"request to {request.url}")

    def open(self, address: str) -> Any:
        self.tab.goto("about:blank")
        self.tab.goto(f"file://{self.folder}/{address}")
        return self.tab


@pytest.fixture
def watched(browser: Any, folder: Path) -> Iterator[Watched]:
    made = Watched(browser, folder)
    yield made
    made.context.close()
    assert made.complaints == []


def ranking(tab: Any, track: str = "linf") -> dict[str, str]:
    """Return what the visible rows of a ranking show: attack → value of the chosen metric."""
    rows = tab.locator(f'.track[data-track="{track}"] tbody tr:visible')
    return {
        row.locator("th").inner_text().split()[0]: row.locator(".score .value").inner_text()
        for row in rows.all()
    }


def cell_address(attack: str = "em", defense: str = "jpeg") -> str:
    cells = script("cells-0")["cells"].items()
    return next(
        f"cell.html#0:{key}"
        for key, cell in cells
        if cell["labels"][1] == attack and cell["labels"][4] == defense
    )


def test_filters_compute_protection_again(watched: Watched) -> None:
    tab = watched.open("index.html")
    everything = ranking(tab)
    tab.get_by_text("Filter cells").click()
    tab.get_by_label("jpeg").uncheck()
    rows = script("ranking", page_without_jpeg())["tracks"]["linf"]
    assert ranking(tab) == {row["attack"]: f"{row['protection']:z.2f}" for row in rows}
    assert "Computed from" in tab.get_by_role("status").inner_text()
    assert tab.locator("th.interval:visible").count() == 0
    tab.get_by_role("button", name="Show all cells").click()
    assert ranking(tab) == everything
    assert list(everything) == [row["attack"] for row in script("ranking")["tracks"]["linf"]]


def test_metric_track_and_search(watched: Watched) -> None:
    tab = watched.open("index.html")
    tab.get_by_label("Show").select_option("raw_accuracy")
    values = ranking(tab)
    assert list(values)[-1] == "clean"
    numbers = [float(value) for value in list(values.values())[:-1]]
    assert numbers == sorted(numbers)
    assert tab.locator("th.interval:visible").count() == 0
    tab.get_by_label("Show").select_option("undefended")
    assert next(iter(ranking(tab))) == "mtl-ue-em"
    tab.locator("#track").select_option("unbounded")
    assert tab.locator('.track[data-track="linf"]').is_hidden()
    tab.locator("#track").select_option("")
    tab.get_by_label("Search").fill("UE-em")
    assert list(ranking(tab)) == ["mtl-ue-em"]
    assert tab.get_by_role("status").inner_text().startswith("1 of 5 attacks")


def test_columns_sort(watched: Watched) -> None:
    tab = watched.open("index.html")
    for expected in ("descending", "ascending"):
        tab.locator('[data-track="linf"]').get_by_role("button", name="without a defense").click()
        heading = tab.locator('[data-track="linf"] th[aria-sort]')
        assert heading.get_attribute("aria-sort") == expected
        shown = tab.locator('[data-track="linf"] td.undefended').all_inner_texts()
        numbers = [float(text) for text in shown]
        assert numbers == sorted(numbers, reverse=expected == "descending")


def test_colors_can_be_switched_and_are_remembered(watched: Watched) -> None:
    tab = watched.open("index.html")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert tab.evaluate(paper) == "rgb(255, 255, 255)"
    tab.get_by_role("button", name="Dark colors").click()
    dark = tab.evaluate(paper)
    assert dark != "rgb(255, 255, 255)"
    tab.get_by_role("link", name="mtl-ue-em").first.click()
    tab.wait_for_selector("canvas")
    assert tab.evaluate(paper) == dark


def test_the_colors_of_the_system_are_followed(browser: Any, folder: Path) -> None:
    dark = Watched(browser, folder, color_scheme="dark")
    tab = dark.open("index.html")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 26)"
    dark.context.close()


def test_everything_is_reached_by_keyboard(watched: Watched) -> None:
    tab = watched.open("index.html")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen, outlines = [], 0
    for _ in range(400):
        tab.keyboard.press("Tab")
        element = tab.evaluate(
            "(e => [e.tagName, e.id || e.textContent.trim() || e.getAttribute('aria-label'),"
            " getComputedStyle(e).outlineStyle !== 'none' || !!e.closest('svg')])(document.activeElement)"
        )
        if element[0] == "BODY":
            break
        seen.append(element[1])
        outlines += element[2]
    assert outlines == len(seen), "an element has no visible focus"
    wanted = {"theme", "metric", "search", "em", "Ranking", "All cells", "Filter cells"}
    assert wanted <= set(seen)
    tab.locator("#metric").focus()
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#metric").input_value() == "undefended"
    tab.get_by_role("link", name="Skip to the content").focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_its_window(browser: Any, folder: Path, width: int) -> None:
    watched = Watched(browser, folder, viewport={"width": width, "height": 700})
    for address in ("index.html", "attack-em.html", "cells.html", cell_address()):
        tab = watched.open(address)
        tab.wait_for_selector("h1")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, address
    watched.context.close()
    assert watched.complaints == []


def test_the_list_of_cells(watched: Watched) -> None:
    tab = watched.open("cells.html#attack=em")
    assert tab.get_by_role("status").inner_text() == "18 of 94 cells."
    tab.get_by_label("only this defense").select_option("jpeg")
    tab.get_by_label("only this seed").select_option("1")
    tab.get_by_label("Search").fill("FACES mtl")
    assert tab.get_by_role("status").inner_text() == "1 of 94 cells."
    tab.get_by_role("link", name="0.27").click()
    tab.wait_for_selector("canvas")
    assert tab.locator("h1").inner_text() == "faces · em · resnet18 · ew · jpeg · mtl · seed 1"


def test_a_cell_shows_everything(watched: Watched) -> None:
    tab = watched.open(cell_address())
    tab.wait_for_selector("canvas")
    text = tab.locator("main").inner_text()
    command = "bench run --suite synthetic --only dataset=digits --only attack=em --only backbone=small"
    for words in (command, "bench explain ", "Environment", "0.500", "commit"):
        assert words in text
    tab.get_by_role("link", name="its cell").click()
    tab.wait_for_function("document.querySelector('h1').textContent.includes('clean')")
    tab.evaluate("location.hash = '#0:nothing'")
    tab.wait_for_function("document.body.textContent.includes('there is no such cell')")


def test_an_attack_draws_its_curves(watched: Watched) -> None:
    tab = watched.open("attack-em.html")
    assert tab.locator("canvas").count() == 2
    tab.locator("figure details summary").first.click()
    rows = tab.locator("figure table tbody tr").first.inner_text().split()
    assert rows == ["1", "-0.333", "-0.590"]


def test_without_scripts_rankings_maps_and_links_can_be_read(browser: Any, folder: Path) -> None:
    plain = Watched(browser, folder, java_script_enabled=False)
    tab = plain.open("index.html")
    assert tab.locator(".ranking tbody tr").count() > 5
    assert tab.locator(".heat").first.is_visible()
    assert tab.locator("#controls").is_hidden()
    tab.get_by_role("link", name="mtl-ue-em").first.click()
    assert tab.locator("h1").inner_text() == "mtl-ue-em"
    plain.context.close()


def test_markup_in_names_does_nothing(browser: Any, tmp_path: Path) -> None:
    files = render_web_page(rank_records(hostile_records()))
    write_page(tmp_path / "page", files)
    watched = Watched(browser, tmp_path / "page")
    keys = [script("cells", files)["pages"][place] for place in (0, -1)]  # finished, failed
    pages = [name for name in files if name.endswith(".html")]
    for address in (*pages, *(f"cell.html#0:{key}" for key in keys)):
        tab = watched.open(address)
        tab.wait_for_selector("h1")
        tab.wait_for_load_state()
    assert "</script>" in tab.locator("h1").inner_text()
    watched.context.close()
    assert watched.complaints == []
