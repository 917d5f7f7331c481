"""The pairs of a report, read in a browser: every control of theirs."""

import json
import time

import pytest
from browser import ABSENT
from read_page import ATTACK, CARDS, FIRST_PROMPT, FORMULA

from dice.run.rows import prompt_id

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} is not installed"),
]

READOUT = "document.querySelector('.readout').textContent"


def test_search_and_show_more(browser, page):
    browser.open(page)
    assert browser.evaluate(CARDS) == 10
    browser.evaluate("more.click()")
    assert browser.evaluate(CARDS) == 12 and browser.evaluate("more.hidden")
    browser.choose("search", "GOOD Grape", "input")
    assert browser.evaluate(CARDS) == 1 and browser.evaluate(FIRST_PROMPT) == "Say grape."
    assert "1 with these words" in browser.evaluate("count.textContent")
    browser.choose("search", "nowhere to be found", "input")
    assert browser.evaluate(CARDS) == 0


def test_orders(browser, page):
    browser.open(page)
    assert browser.evaluate(FIRST_PROMPT) == "Say apple."  # 3 + 1 nats
    browser.choose("order", "low")
    assert browser.evaluate(FIRST_PROMPT).startswith("Attack")  # 0.5 + 0.5
    browser.choose("order", "random")
    prompts = "[...document.querySelectorAll('article .turn')].map((turn) => turn.textContent).join()"
    shuffled = browser.evaluate(prompts)
    browser.evaluate("shuffle.click()")
    assert browser.evaluate(prompts) != shuffled
    browser.open(page)
    browser.choose("order", "random")
    assert browser.evaluate(prompts) == shuffled  # the same page, the same order


@pytest.mark.parametrize(
    ("order", "first"),
    [("liked", "Say apple."), ("disliked", "Attack"), ("long", "Attack"), ("short", "Say apple.")],
)
def test_orders_by_reward_and_by_length(browser, page, order, first):
    """Rewards of chosen go from 3 down to 0.5; the shortest words have five letters."""
    browser.open(page)
    browser.choose("order", order)
    assert browser.evaluate(FIRST_PROMPT).startswith(first)


def test_words_that_differ_are_marked(browser, page):
    browser.open(page)
    browser.choose("view", "differences")
    texts = "[...document.querySelectorAll('article:first-child .response')].map((side) => side.innerHTML)"
    assert browser.evaluate(texts) == ["<ins>good</ins> apple", "<del>bad</del> apple"]
    browser.choose("search", "attack", "input")
    shown = "document.querySelector('article .side.chosen .response').textContent"
    assert browser.evaluate(shown) == f"now {ATTACK}"
    assert browser.evaluate("document.querySelectorAll('img, #list script').length") == 0


def test_all_samples_of_a_prompt_unfold(browser, page):
    browser.open(page)
    rows = """[...document.querySelectorAll('article:first-child tr')].map(
      (row) => [...row.cells].map((cell) => cell.innerText))"""
    assert browser.evaluate(rows) == []
    browser.evaluate("document.querySelector('article summary').focus()")
    browser.press("Enter", 13)
    time.sleep(0.2)  # its event comes later
    assert browser.evaluate(rows)[1:] == [
        ["0 chosen", "+3.00", "+3.00", "10", "11", "stop", "good apple"],
        ["2", "+0.00", "+0.00", "4", "5", "stop", FORMULA],
        ["1 rejected", "−1.00", "−1.00", "9", "10", "stop", "bad apple"],
    ]


def test_a_link_leads_to_its_pair(browser, page):
    """One of round 1 that is not among the first ten, in a page that opens with round 2."""
    name = f"round-1-pair-{prompt_id([{'role': 'user', 'content': 'Say lemon.'}])}"
    seen = """(() => {
      const box = document.activeElement.getBoundingClientRect();
      return [document.activeElement.id, box.top >= -1 && box.top < innerHeight];
    })()"""
    browser.open(page, more=f"?#{name}")
    assert browser.evaluate(seen) == [name, True]
    assert browser.evaluate("count.textContent").startswith("Round 1:")
    browser.open(page)
    browser.choose("search", "nowhere to be found", "input")
    browser.evaluate(f"location.hash = '{name}'")
    time.sleep(0.2)
    assert browser.evaluate(seen) == [name, True]
    assert browser.evaluate(f"document.querySelector('#{name} a').hash") == f"#{name}"
    browser.open(page, more="?#round-1-pair-none")
    assert browser.evaluate("count.textContent").startswith("Round 2:") and browser.complaints() == []


def test_a_pair_is_copied_as_json(browser, page):
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.call("Emulation.setFocusEmulationEnabled", enabled=True)
    browser.open(page)
    browser.evaluate("document.querySelector('article button').click()")
    copied = json.loads(browser.evaluate("navigator.clipboard.readText()"))
    assert (copied["round"], copied["messages"]) == (2, [{"role": "user", "content": "Say apple."}])
    assert (copied["chosen"], copied["rejected"]) == ("good apple", "bad apple")  # no end of the turn
    assert (copied["chosen_reward"], copied["rejected_sample"]) == (3.0, 1)
    assert [sample["response"] for sample in copied["samples"]] == ["good apple", FORMULA, "bad apple"]
    assert browser.evaluate("document.querySelector('article button').textContent") == "copied"


def test_where_nothing_may_be_copied_the_json_is_shown(browser, page):
    browser.open(page)
    browser.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    browser.evaluate("document.querySelector('article button').click()")
    shown = json.loads(browser.evaluate("document.querySelector('article textarea').value"))
    assert shown["chosen"] == "good apple"


def test_tokens_are_read_by_keyboard(browser, page):
    browser.open(page)
    browser.evaluate("document.querySelector('article .response').focus()")
    for _ in range(2):
        browser.press("ArrowRight", 39)
    assert browser.evaluate(READOUT).startswith("“o”: ")  # the second letter of "good"
    browser.press("ArrowLeft", 37)
    assert browser.evaluate(READOUT).startswith("“g”: ")


def test_tokens_are_shaded_and_tell_their_nats(browser, page):
    browser.open(page)
    shade = "getComputedStyle(document.querySelector('#list .token')).backgroundColor"
    lit = browser.evaluate(shade)
    assert lit.startswith("rgba(") and not lit.endswith(" 0)")
    browser.evaluate("document.querySelector('#list .token').click()")
    assert browser.evaluate(READOUT).endswith(" nats")
    browser.choose("view", "plain")
    assert browser.evaluate(shade) == "rgba(0, 0, 0, 0)"


def test_rounds_can_be_chosen(browser, page):
    browser.open(page)
    assert browser.evaluate("count.textContent").startswith("Round 2:")
    browser.choose("round", "0")
    assert browser.evaluate("count.textContent").startswith("Round 1:")
