"""The report as a browser shows it: headless Chromium, on the desktop and on a phone."""

import importlib.util
import json
import time

import fake_world
import pytest
from browser import Browser, find_chromium
from reported import write_evaluation, write_pairs, write_samples, write_training

from dice.recipe import load
from dice.recipe.paths import ROOT
from dice.run.run import create_run, open_run
from dice.tools.report import write_report

ABSENT = None if importlib.util.find_spec("websockets") else "package websockets"
ABSENT = ABSENT if find_chromium() else "Chromium (Debian: apt-get install chromium)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} is not installed"),
]

ATTACK = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
LONG = "unbroken" * 60
WORDS = (
    "apple",
    "bread",
    "cloud",
    "dream",
    "eagle",
    "flame",
    "grape",
    "horse",
    "island",
    "jungle",
    "kettle",
    "lemon",
)
TINY = ROOT / "results" / "tiny" / "report.html"
CARDS = "document.querySelectorAll('.pair').length"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two rounds whose pairs have tokens, one of them with an attack in all its texts."""
    folder = tmp_path_factory.mktemp("report")
    settings = fake_world.make_settings(fake_world.make_data(folder / "data"), folder / "results")
    run = create_run(load.load_recipe("tiny", settings))
    table = {
        f"Say {word}.": [(f"good {word}", 3.0 - i / 9), (f"bad {word}", -1.0)] for i, word in enumerate(WORDS)
    }
    table[f"Attack {ATTACK}"] = [(f"now {ATTACK}", 0.5), (f"{LONG} \x1b[31m {ATTACK}", -0.5)]
    for t in (1, 2):
        write_samples(run, t, table)
        write_pairs(run, t)
        write_training(run, t)
    write_evaluation(run, (0.6, 0.55, 0.01, 110.0), (0.7, 0.6, 0.01, 120.0))
    write_report(run)
    return run.path / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def type_into(browser, name: str, value: str, event: str) -> None:
    browser.evaluate(f"{name}.value = {value!r}, {name}.dispatchEvent(new Event('{event}'))")


def first_prompt(browser) -> str:
    return browser.evaluate("document.querySelector('.pair .turn').lastChild.textContent")


def complaints(browser) -> list[dict]:
    kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    return [told for kind in kinds for told in browser.told(kind)]


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


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False), (360, True)])
def test_it_loads_nothing_complains_of_nothing_and_fits(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    assert requests(browser) == [page.as_uri()]
    assert complaints(browser) == []
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
    assert first_prompt(browser) in prompts
    prompt = browser.evaluate("document.querySelectorAll('.pair .turn')[3].lastChild.textContent")
    type_into(browser, "search", prompt, "input")
    assert browser.evaluate(CARDS) == 1 and first_prompt(browser) == prompt
    type_into(browser, "search", "nowhere to be found", "input")
    assert browser.evaluate(CARDS) == 0
    assert requests(browser) == [TINY.as_uri()]
    assert complaints(browser) == []


def test_scripts_in_responses_stay_text(browser, page):
    browser.open(page)
    type_into(browser, "search", "attack", "input")
    assert browser.evaluate(CARDS) == 1
    assert first_prompt(browser) == f"Attack {ATTACK}"
    assert "␛[31m" in browser.evaluate("document.querySelector('.side.rejected .response').textContent")
    assert browser.evaluate("document.title") == "tiny · DICE report"
    assert browser.evaluate("document.querySelectorAll('img, #list script').length") == 0


def test_search_and_show_more(browser, page):
    browser.open(page)
    assert browser.evaluate(CARDS) == 10
    browser.evaluate("more.click()")
    assert browser.evaluate(CARDS) == 13 and browser.evaluate("more.hidden")
    type_into(browser, "search", "GOOD Grape", "input")
    assert browser.evaluate(CARDS) == 1 and first_prompt(browser) == "Say grape."
    assert "1 with these words" in browser.evaluate("count.textContent")
    type_into(browser, "search", "nowhere to be found", "input")
    assert browser.evaluate(CARDS) == 0


def test_orders(browser, page):
    browser.open(page)
    assert first_prompt(browser) == "Say apple."  # 3 + 1 nats
    type_into(browser, "order", "low", "change")
    assert first_prompt(browser).startswith("Attack")  # 0.5 + 0.5
    type_into(browser, "order", "random", "change")
    prompts = "[...document.querySelectorAll('.pair .turn')].map((turn) => turn.textContent).join()"
    shuffled = browser.evaluate(prompts)
    browser.evaluate("shuffle.click()")
    assert browser.evaluate(prompts) != shuffled
    browser.open(page)
    type_into(browser, "order", "random", "change")
    assert browser.evaluate(prompts) == shuffled  # the same page, the same order


def test_tokens_are_shaded_and_tell_their_nats(browser, page):
    browser.open(page)
    shade = "getComputedStyle(document.querySelector('.response .token')).backgroundColor"
    lit = browser.evaluate(shade)
    assert lit.startswith("rgba(") and not lit.endswith(" 0)")
    browser.evaluate("document.querySelector('.response .token').click()")
    assert browser.evaluate("document.querySelector('.readout').textContent").endswith(" nats")
    browser.evaluate("document.getElementById('shade').click()")
    assert browser.evaluate(shade) == "rgba(0, 0, 0, 0)"


def test_rounds_can_be_chosen(browser, page):
    browser.open(page)
    assert browser.evaluate("count.textContent").startswith("Round 2:")
    type_into(browser, "round", "0", "change")
    assert browser.evaluate("count.textContent").startswith("Round 1:")


def test_it_prints(browser, page):
    browser.open(page, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(controls).display") == "none"
    assert (
        browser.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')") == "#1c2026"
    )
    assert len(browser.call("Page.printToPDF")["data"]) > 50_000
