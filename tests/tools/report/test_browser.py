"""The report as a browser shows it: headless Chromium, on the desktop and on a phone."""

import csv
import json
import time

import pytest
from browser import ABSENT
from read_page import ATTACK, CARDS, FIRST_PROMPT, FORMULA, make_run

from dice.recipe.paths import ROOT
from dice.run.run import open_run
from dice.tools.report import tables, write_report
from dice.tools.report.collect import collect

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} is not installed"),
]

TINY = ROOT / "results" / "tiny" / "report.html"


def requests(browser) -> list[str]:
    time.sleep(0.2)  # for whatever it might still ask for
    return [told["request"]["url"] for told in browser.told("Network.requestWillBeSent")]


def check_plots(browser, rounds: int) -> None:
    """Every plot has a size, marks that can be seen, words, and a label for those who can't see it."""
    drawn = browser.evaluate(
        """[...document.querySelectorAll("svg")].map((svg) => {
          const box = svg.getBoundingClientRect();
          const marks = [...svg.querySelectorAll("path, use")].filter((mark) => {
            const seen = mark.getBoundingClientRect();
            return seen.width > 0 || seen.height > 0;
          });
          return [box.width, box.height, marks.length, svg.textContent.trim().length, svg.ariaLabel.length];
        })"""
    )
    assert len(drawn) == 3 + rounds * 9
    for width, height, marks, text, label in drawn:
        assert width > 200 and height > 80 and marks > 5 and text > 10 and label > 10


@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True), (360, False)]
)
def test_it_loads_nothing_complains_of_nothing_and_fits(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    assert requests(browser) == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    seen = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert seen == ("rgb(18, 21, 24)" if dark else "rgb(247, 247, 245)")


def test_every_plot_is_drawn(browser, page):
    browser.open(page)
    check_plots(browser, rounds=2)


@pytest.mark.skipif(not TINY.exists(), reason="`bash scripts/run_dice/iter.sh tiny` has not been run here")
@pytest.mark.parametrize("width", [1280, 360])
def test_the_report_of_the_tiny_run(browser, width):
    """The run that `iter.sh tiny` leaves, not a made-up one."""
    run = open_run(TINY.parent)
    lines = (run.round_dir(run.recipe.rounds) / "pairs.jsonl").open()
    prompts = {json.loads(line)["messages"][-1]["content"] for line in lines}
    browser.open(TINY, width=width)
    check_plots(browser, run.recipe.rounds)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(FIRST_PROMPT) in prompts
    prompt = browser.evaluate("document.querySelectorAll('article .turn')[3].lastChild.textContent")
    browser.choose("search", prompt, "input")
    assert browser.evaluate(CARDS) == 1 and browser.evaluate(FIRST_PROMPT) == prompt
    browser.choose("search", "nowhere to be found", "input")
    assert browser.evaluate(CARDS) == 0
    assert requests(browser) == [TINY.as_uri()]
    assert browser.complaints() == []


def test_scripts_in_responses_stay_text(browser, page):
    browser.open(page)
    browser.choose("search", "attack", "input")
    assert browser.evaluate(CARDS) == 1
    assert browser.evaluate(FIRST_PROMPT) == f"Attack {ATTACK}"
    assert "␛[31m" in browser.evaluate("document.querySelector('.side.rejected .response').textContent")
    assert browser.evaluate("document.title") == "tiny · DICE report"
    assert browser.evaluate("document.querySelectorAll('img, #list script').length") == 0


def test_the_same_prompt_is_answered_by_all_models(browser, page):
    browser.open(page)
    cards = "document.querySelectorAll('#answers details')"
    assert browser.evaluate(f"{cards}.length") == 3
    assert browser.evaluate(f"[...{cards}].map((card) => card.open)") == [True, False, False]
    browser.evaluate(f"{cards}[1].querySelector('summary').focus()")
    browser.press("Enter", 13)
    assert browser.evaluate(f"{cards}[1].open")
    shown = browser.evaluate(f"[...{cards}[1].querySelectorAll('.side')].map((side) => side.innerText)")
    assert [text.split()[0] for text in shown] == ["SFT", "DPO", "round-1", "round-2"]
    assert f"round-2 says {ATTACK}" in shown[3] and "quality 0.75 · mean 0.38" in shown[3]


def downloaded(browser, folder, name):
    """The rows of a file that the page hands out."""
    deadline = time.monotonic() + 20
    while not (folder / name).is_file():
        assert time.monotonic() < deadline, f"no {name}"
        time.sleep(0.05)
    return [*csv.reader((folder / name).open(encoding="utf-8-sig", newline=""))]


def test_tables_are_downloaded_as_csv(browser, page, made, tmp_path):
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.open(page)
    offered = browser.evaluate(
        """[...document.querySelectorAll('table')].map(
          (table) => table.id && table.parentNode.nextSibling.textContent)"""
    )
    assert len(offered) == 7 and {*offered} == {"CSV"}
    browser.evaluate("glance.parentNode.nextSibling.click()")
    head, *rows = downloaded(browser, tmp_path, "glance.csv")
    assert head == ["", "round 1", "round 2"]
    known = tables.glance(collect(made))
    assert [row[0] for row in rows] == [*known]
    assert dict((row[0], row[1:]) for row in rows)["Training loss at the end"] == ["0.600", "0.600"]
    browser.evaluate("sources.parentNode.nextSibling.click()")
    head, *rows = downloaded(browser, tmp_path, "sources.csv")
    assert {len(row) for row in rows} == {3} and rows[0][:2] == ["round 1, generate", "commit"]
    browser.evaluate("document.querySelector('.samples summary').click()")
    time.sleep(0.2)
    browser.evaluate("document.querySelector('.samples button').click()")
    name = browser.evaluate("document.querySelector('.samples table').id")
    assert [row[1] for row in downloaded(browser, tmp_path, f"{name}.csv")[1:]] == ["+3.00", "+0.00", "-1.00"]
    assert downloaded(browser, tmp_path, f"{name}.csv")[2][-1] == f"'{FORMULA}"  # text, not a formula
    assert browser.complaints() == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_two_runs_beside_each_other(browser, made, tmp_path_factory, tmp_path, width, dark):
    other = make_run(tmp_path_factory.mktemp("other"), "changed")
    write_report(other, made, quick=True)
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.open(other.path / "report.html", width=width, dark=dark)
    assert browser.complaints() == [] and browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('#beside svg').length") == 3
    browser.evaluate("document.getElementById('two-runs').parentNode.nextSibling.click()")
    head, *rows = downloaded(browser, tmp_path, "two-runs.csv")
    assert head == ["figure", "run", "start", "round 1", "round 2"]
    assert rows[:2] == [["Quality", name, "0.500", "0.600", "0.700"] for name in ("changed", "tiny")]


def test_every_control_is_reached_by_keyboard(browser, page):
    browser.open(page)
    controls = "[...document.querySelectorAll('a, button, select, input, summary, .response')]"
    assert browser.evaluate(f"{controls}.filter((each) => each.tabIndex < 0).length") == 0
    browser.evaluate("part = document.querySelector('article a'), part.focus()")
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.textContent") == "copy as JSON"


def test_it_prints(browser, page):
    browser.open(page, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(controls).display") == "none"
    assert (
        browser.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')") == "#1c2026"
    )
    assert len(browser.call("Page.printToPDF")["data"]) > 50_000
