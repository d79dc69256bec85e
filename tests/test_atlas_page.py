"""The atlas page as a browser shows it: built by Sphinx, looked at in a headless Chromium.

Needs what ``tox -e page`` installs, and Debian's packages chromium and chromium-driver.
"""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from packaging.version import Version

from zoo_hooks import catalogue
from zoo_hooks.tool import atlas

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("no Chromium here: apt-get install chromium chromium-driver", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium here: tox -e page")
ui = pytest.importorskip("selenium.webdriver.support.ui", reason="no selenium here: tox -e page")
pytest.importorskip("furo", reason="no Sphinx and its theme here: tox -e page")
ActionChains, Keys = webdriver.ActionChains, webdriver.Keys

ROOT = Path(__file__).parent.parent
PATCH, OTHER = "transformers/gemma4-mlp-fp16", "peft/hybrid-cache-import"
PAIRED = "peft/shadow-cache-dropped"
LATEST = atlas.read().of(PATCH)[-1].releases["transformers"]
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MEASURED = """
import sys
from sphinx.cmd.build import main
from zoo_hooks.tool import atlas

patch = "transformers/gemma4-mlp-fp16"
for row, verdict in zip(atlas.read().of(patch)[::-1], ("AFFECTED", "UNKNOWN", "FAILED")):
    atlas.read().put(patch, row._replace(verdict=verdict, without="nan", repaired="0.00051"))
sys.exit(main(sys.argv[1:]))
"""
"""Sphinx on the real data, with each verdict and a figure, whatever the data has today."""
CONTRASTS = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const ground = (one) => {
  for (; one; one = one.parentElement) {
    const colour = numbers(getComputedStyle(one).backgroundColor);
    if (colour[3] !== 0) return colour;
  }
  return [255, 255, 255];
};
return Object.fromEntries(arguments[0].map((selector) => {
  const one = document.querySelector(selector);
  const [a, b] = [light(numbers(getComputedStyle(one).color)), light(ground(one))];
  return [selector, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
}));
"""
"""Contrast of text and background, as WCAG computes it."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    """The pages, built from a copy of the docs and served on this machine."""
    work = tmp_path_factory.mktemp("docs")
    ignored = shutil.ignore_patterns("_build", "generated", "catalogue", "catalogue.md")
    shutil.copytree(ROOT / "docs", work / "docs", ignore=ignored)
    for name in ("README.md", "tests"):
        (work / name).symlink_to(ROOT / name)
    wanted = f"include_patterns=index.md,atlas.md,catalogue/{PATCH}.md"
    command = [sys.executable, "-c", MEASURED, "-q", "-b", "html", "-D", wanted, work / "docs", work / "html"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    serve = functools.partial(Quiet, directory=work / "html")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/atlas.html"
        server.shutdown()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
        yield driver


class Page:
    """The page in a window of some width."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address

    def open(self, rest="", width=1280, scheme="light"):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        self.driver.get("about:blank")
        self.driver.get(self.address + rest)
        loaded = "return document.readyState === 'complete' && !!document.getElementById('atlas')"
        self.waits(lambda: self.run(loaded))
        return self

    def waits(self, until):
        ui.WebDriverWait(self.driver, 30).until(lambda _: until())

    def click(self, element):
        """As a person does who has scrolled there."""
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def scrolls(self, by):
        """By some pixels, until the page has been told."""
        script = """
            document.addEventListener("scroll", arguments[1], {once: true});
            scrollBy({top: arguments[0], behavior: "instant"});"""
        self.driver.execute_async_script(script, by)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def cell(self, patch, version):
        """A patch's cell on a release of its library."""
        script = """
            const row = document.getElementById(arguments[0]);
            const heads = [...row.closest("table").tHead.rows[0].cells].map((cell) => cell.textContent);
            return row.cells[heads.indexOf(arguments[1])];"""
        return self.run(script, patch, version)

    def severity(self, patch):
        return self.run("return document.getElementById(arguments[0]).dataset.severity", patch)

    def shown(self):
        """Ids of the patches that are to be seen."""
        script = "return [...document.querySelectorAll('#atlas tbody tr')]"
        return self.run(f"{script}.filter((row) => row.checkVisibility()).map((row) => row.id)")

    def search(self):
        """What of the address says what is shown."""
        return self.driver.current_url.partition("atlas.html")[2]

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    @property
    def focused(self):
        return self.driver.switch_to.active_element

    @property
    def details(self):
        return self.one("#atlas-details")

    def is_in_view(self, element):
        """Whether nothing hides the middle of it."""
        script = """
            const {left, top, width, height} = arguments[0].getBoundingClientRect();
            const hit = document.elementFromPoint(left + width / 2, top + height / 2);
            return arguments[0].contains(hit);"""
        return self.run(script, element)


@pytest.fixture
def page(chromium, address):
    chromium.get_log("browser")
    yield Page(chromium, address)
    said = [line["message"] for line in chromium.get_log("browser")]
    assert [line for line in said if "favicon.ico" not in line] == []


def newest(library):
    return max(
        (
            row.releases[library]
            for patch in catalogue.ids()
            if patch.startswith(f"{library}/")
            for row in atlas.read().of(patch)
        ),
        key=Version,
    )


@pytest.mark.parametrize("width", [1280, 400])
def test_the_newest_releases_of_each_patch_are_in_view_first(page, width):
    """All patches are there, the newest release is the first column, and more than a few columns fit."""
    page.open(width=width)
    assert sorted(page.shown()) == sorted(catalogue.ids())
    version = newest("transformers")
    head = page.one("#atlas thead tr :nth-child(2)")
    assert head.text == version
    page.run("arguments[0].scrollIntoView()", head)
    fitting = page.run(
        "return [...document.querySelector('#atlas thead tr').cells]"
        ".filter((cell) => cell.getBoundingClientRect().right <= innerWidth).length"
    )
    assert fitting > (7 if width == 400 else 15)


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_itself_never_scrolls_sideways(page, width):
    """Only the tables do; also with the details open and a tip at the right edge."""
    page.open(f"#{PAIRED}", width)
    assert page.details.is_displayed()
    wide = "return [document.documentElement.scrollWidth, document.querySelector('.content').scrollWidth]"
    assert max(page.run(wide)) <= width
    page.click(page.cell(PATCH, LATEST))
    page.press(Keys.END)
    assert page.is_in_view(page.focused)
    assert max(page.run(wide)) <= width
    tip = page.one("#atlas-tip").rect
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= width


def test_filters_by_library_severity_and_text(page):
    """All three narrow what is shown, are kept in the address, and are read from it."""
    page.open()
    ui.Select(page.one("[name=library]")).select_by_visible_text("peft")
    peft = [patch for patch in catalogue.ids() if patch.startswith("peft/")]
    assert sorted(page.shown()) == sorted(peft)
    severity = ui.Select(page.one("[name=severity]"))
    chosen = page.severity(OTHER)
    severity.select_by_visible_text(chosen)
    some = page.shown()
    assert OTHER in some
    assert {page.severity(one) for one in some} == {chosen}
    page.one("[name=text]").send_keys("HYBRID import")
    assert page.shown() == [OTHER]
    assert page.one("#atlas [role=status]").text == f"1 of {len(catalogue.ids())} patches"
    assert [section.text for section in page.all("#atlas h2") if section.is_displayed()] == ["peft"]
    kept = page.search()
    assert kept == f"?library=peft&severity={chosen.replace(' ', '+')}&text=HYBRID+import"
    assert page.open(kept).shown() == [OTHER]
    page.click(page.one("#atlas [type=reset]"))
    assert sorted(page.shown()) == sorted(catalogue.ids())
    assert page.search() == ""


def test_a_title_is_found_by_the_text_and_what_is_not_there_finds_nothing(page):
    """And a library that does not exist, or a name that forms have, does no harm."""
    page.open("?text=overflow+float16&library=no-such&length=3")
    assert PATCH in page.shown()
    assert all(re.search("overflow.* float16", catalogue.get(one).title) for one in page.shown())
    page.one("[name=text]").send_keys(" no such words")
    assert page.shown() == []
    assert page.one("#atlas [role=status]").text.startswith("0 of ")


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("filters", ["", "?library=dill"])
def test_a_permalink_opens_the_patch(page, width, filters):
    """In view, marked, with its details; also when the filters of the address would hide it."""
    page.open(f"{filters}#{PATCH}", width)
    row = page.run("return document.getElementById(arguments[0])", PATCH)
    assert page.is_in_view(row.find_element("tag name", "a"))
    assert row.get_attribute("aria-selected") == "true"
    patch = catalogue.get(PATCH)
    for text in (PATCH, patch.title, *patch.affects, patch.measures, LATEST, "nan"):
        assert text in page.details.text
    assert page.search() == f"#{PATCH}"
    page.run("location.hash = arguments[0]", f"#{OTHER}")
    page.waits(lambda: OTHER in page.details.text)
    page.driver.back()
    page.waits(lambda: PATCH in page.details.text)
    page.click(page.details.find_element("link text", "Case report"))
    assert page.one("h1").text.startswith(PATCH)
    page.click(page.one(f"a[href$='atlas.html#{PATCH}']"))
    page.waits(lambda: page.all("#atlas-details") and PATCH in page.details.text)


def test_a_click_makes_the_permalink_and_lists_the_pairs(page):
    """Each release of the other library is in the details, by verdict."""
    page.open("?library=peft")
    version = atlas.read().of(PAIRED)[-1].releases["peft"]
    page.click(page.cell(PAIRED, version))
    assert page.search() == f"?library=peft#{PAIRED}"
    listed = page.details.text
    for row in atlas.read().of(PAIRED):
        if row.releases["peft"] == version:
            assert re.search(rf"^{row.verdict}.*\b{row.releases['transformers']}\b", listed, re.MULTILINE)
    page.click(page.details.find_element("tag name", "button"))
    assert not page.details.is_displayed()
    assert page.search() == "?library=peft"


def test_a_cell_says_verdict_and_figures_when_pointed_at(page):
    """Beside the cell, also when the page scrolls a little, and no longer when the pointer leaves."""
    page.open()
    cell, tip = page.cell(PATCH, LATEST), page.one("#atlas-tip")
    assert not tip.is_displayed()
    page.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", cell)
    ActionChains(page.driver).move_to_element(cell).perform()
    for _ in range(3):
        page.waits(tip.is_displayed)
        assert tip.text == f"AFFECTED on transformers {LATEST}; without zoo-hooks nan, with 0.00051"
        assert abs(tip.rect["y"] - cell.rect["y"] - cell.rect["height"]) < 2
        page.scrolls(1)
    ActionChains(page.driver).move_to_element(page.one("#transformers")).perform()
    assert not tip.is_displayed()


def test_the_keyboard_alone_reaches_everything(page):
    """Tab goes from the filters into the table, arrows within it; Enter opens, Escape comes back."""
    page.open(f"?text={PATCH}")
    page.press(Keys.TAB)
    assert "skip-to-content" in page.focused.get_attribute("class")
    page.one("#atlas [type=reset]").send_keys(Keys.TAB)
    first = page.cell(PATCH, LATEST)
    assert page.focused == first
    assert "nan" in page.one("#atlas-tip").text
    page.press(Keys.ARROW_RIGHT)
    second = page.focused
    assert second == page.run("return arguments[0].nextElementSibling", first)
    assert second.get_attribute("aria-label") == page.one("#atlas-tip").text
    assert page.run("return getComputedStyle(arguments[0]).outlineStyle", second) == "solid"
    page.press(Keys.END)
    assert page.is_in_view(page.focused)
    page.press(Keys.HOME)
    assert page.focused.get_attribute("href").endswith(f"catalogue/{PATCH}.html")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ENTER)
    assert page.details.is_displayed()
    assert page.focused == second
    page.press(Keys.TAB)
    assert page.focused.text == "Close"
    page.press(Keys.ESCAPE)
    assert not page.details.is_displayed()
    assert page.focused == second


def test_arrows_pass_over_what_is_filtered_out(page):
    """Up and down go to the rows that are shown."""
    page.open("?text=fp16")
    shown = [one for one in page.shown() if one.startswith("transformers/")]
    page.one("#atlas [type=reset]").send_keys(Keys.TAB)
    rows = []
    for key in ("", *[Keys.ARROW_DOWN] * len(shown), Keys.PAGE_UP):
        page.press(key)
        rows.append(page.focused.find_element("xpath", "./ancestor::tr").get_attribute("id"))
    assert rows == [*shown, shown[-1], shown[0]]


def test_a_screen_reader_is_told_tables_cells_and_verdicts(page):
    """Names and roles as Chromium computes them."""
    page.open()
    table = page.one("#atlas table")
    assert (table.aria_role, table.accessible_name.split(" on ")[0]) == ("grid", "Patches of transformers")
    cell = page.cell(PATCH, LATEST)
    assert cell.aria_role == "gridcell"
    assert cell.accessible_name.startswith(f"AFFECTED on transformers {LATEST};")
    row = page.run("return document.getElementById(arguments[0]).cells[0]", PATCH)
    assert (row.aria_role, row.accessible_name.split()[0]) == ("rowheader", PATCH.partition("/")[2])
    assert page.one("#atlas thead th:nth-child(2)").aria_role == "columnheader"
    for name in ("Library", "Severity", "Text"):
        assert page.one(f"[name={name.lower()}]").accessible_name == name
    unnamed = "return [...document.querySelectorAll('#atlas td:not([aria-label])')].length"
    assert page.run(unnamed) == 0
    stops = [len(table.find_elements("css selector", "[tabindex='0']")) for table in page.all("#atlas table")]
    assert set(stops) == {1}


SPOKEN = [f"td.{verdict}" for verdict in atlas.VERDICTS]
TEXTS = [
    *("#atlas label", "#atlas select", "#atlas [name=text]", "#atlas button", "#atlas [role=status]"),
    *("#atlas caption", "#atlas thead th", "#atlas tbody a", "#atlas tbody th span", "#atlas-tip"),
    *("#atlas-details p", "#atlas-details a", "tr[aria-selected] a", "tr[aria-selected] span"),
    *SPOKEN,
]


@pytest.mark.parametrize("way", ["light", "dark", "dark by the theme's button"])
def test_all_text_can_be_read_in_light_and_dark(page, way):
    """Contrast of 4.5 and more; verdicts differ by their sign too."""
    page.open(f"#{PATCH}", scheme=way if way in ("light", "dark") else "light")
    if "button" in way:
        page.run("document.body.dataset.theme = 'dark'")
    page.click(page.cell(PATCH, LATEST))
    page.press(Keys.ARROW_RIGHT)
    found = page.run(CONTRASTS, TEXTS)
    assert {text: round(contrast, 2) for text, contrast in found.items() if contrast < 4.5} == {}
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (way == "light")
    assert len({page.one(f"#atlas {cell}").text for cell in SPOKEN}) == len(SPOKEN)


def test_without_javascript_it_is_plain_tables(page):
    """No filters that do nothing; each table with its caption, heads and signs."""
    page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.open()
        assert not page.one("#atlas form").is_displayed()
        table = page.one("#atlas table")
        assert table.aria_role == "table"
        assert table.text.startswith("Patches of transformers on ")
        assert {cell.aria_role for cell in page.all("#atlas tbody tr:first-child td")} == {"cell"}
        assert page.one("#atlas-details").is_displayed() is False
    finally:
        page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_nothing_is_loaded_from_elsewhere(page):
    """Style, script and fonts come from the pages themselves."""
    page.open()
    loaded = page.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    here = page.address.rpartition("/")[0]
    assert [one for one in loaded if not one.startswith(here)] == []
    assert {"atlas.js", "atlas.css"} <= {one.rpartition("/")[2].partition("?")[0] for one in loaded}
