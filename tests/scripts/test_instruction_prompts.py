"""Topics, constraints and prompts: disjoint sets, checks by hand, and texts that say all the judge needs."""

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constraints import KINDS, Constraint, listed, sentences
from dice.errors import BadInput
from prompts import SHARES, TASKS, make_data, read, write
from topics import TOPICS, content, speaks_of, split, stem, words

SIZES = {"pairs": 300, "prompts": 160, "held_out": 100, "held_out_pairs": 60}
EVERY = [Constraint(kind, value) for kind in KINDS.values() for value in kind.values]


def test_topics_are_many_and_share_no_content_word():
    assert len(TOPICS) >= 400 and all(topic == topic.strip() != "" for topic in TOPICS)
    uses = Counter(word for topic in TOPICS for word in content(topic))
    assert uses.most_common(1)[0][1] == 1
    asked = " ".join(sentence for constraint in EVERY for sentence in constraint.asked())
    tasks = " ".join(task.format("") for task in TASKS)
    assert not {stem(word) for word in words(f"{asked} {tasks}")} & uses.keys()  # or echoes would be on topic


@pytest.mark.parametrize(
    ("topic", "text", "expected"),
    [
        ("knitting", "She knits a scarf.", True),
        ("candles", "A candle burns.", True),
        ("strawberry jam", "Strawberries are red.", True),
        ("octopuses", "The octopus has three hearts.", True),
        ("loneliness", "We all feel lonely.", True),
        ("the moon", "The sun is hot.", False),  # an article is no content
        ("ants", "Plants grow.", False),  # a part of a word is not the word
        ("tea", "", False),
    ],
)
def test_speaking_of_a_topic(topic, text, expected):
    assert speaks_of(topic, text) is expected


def test_sets_are_disjoint_and_come_from_the_seed():
    sets = split(TOPICS, SHARES, 1)
    assert sets == split(TOPICS, SHARES, 1) != split(TOPICS, SHARES, 2)
    together = [topic for topics in sets.values() for topic in topics]
    assert len(together) == len({*together}) and len(TOPICS) - 4 < len(together) <= len(TOPICS)
    assert {name: round(len(topics) / len(TOPICS), 2) for name, topics in sets.items()} == SHARES


def test_sentences_by_hand():
    assert sentences("Tea is hot. Is it? Yes!") == ["Tea is hot.", "Is it?", "Yes!"]
    assert sentences("It costs 3.50, e.g. at Mr. Hill's.") == ["It costs 3.50, e.g. at Mr. Hill's."]
    assert sentences('He said "go." Then he went') == ['He said "go."', "Then he went"]
    assert sentences("Tea\n\n1. Green tea.\n- Black tea\n---\n2.") == ["Tea", "Green tea.", "Black tea"]
    assert sentences("Well... no.") == ["Well...", "no."]
    assert sentences(" . ? \n") == sentences("") == []


def test_list_items_by_hand():
    assert [listed(line) for line in ("1. a", "  12) a", "- a", "* a", "• a")] == ["1", "12", "", "", ""]
    assert {listed(line) for line in ("a", "1.", "1.5 a", "-a", "- ", "* * *", "1. 2", "-5 a")} == {None}


@pytest.mark.parametrize(
    ("name", "value", "right", "wrong"),
    [
        ("max_words", 15, ["a " * 15], ["a " * 16]),
        ("one_sentence", None, ["Tea is hot.", "tea is hot"], ["Tea is hot. Yes.", "Tea\nis hot."]),
        ("two_sentences", None, ["Tea. Hot!", "Tea\nis hot."], ["Tea.", "Tea. Is. Hot."]),
        ("no_commas", None, ["Hot; sweet."], ["Hot, sweet."]),
        (
            "numbered_list",
            3,
            ["1. a\n2. b\n3. c", "Here:\n\n1) a\n2) b\n\n3) c\nBye."],
            ["1. a\n2. b", "1. a\n2. b\n3. c\n4. d", "1. a 2. b 3. c", "1.\n2.\n3.\na", "3. a\n2. b\n1. c"],
        ),
        (
            "bullet_list",
            2,
            ["- a\n- b", "Hot:\n* a\n  • b"],
            ["- a", "- a\n- b\n- c", "1. a\n2. b", "- \n- \na"],
        ),
        (
            "question_end",
            "?",
            ["Is it?", '"Is it?"\n', "Is it? **Is it?**"],
            ["It is.", "It is. ?", "It is.?", "Is it? Yes", "Is it? -"],
        ),
        ("exclamation_end", "!", ["It is!", "It is!!"], ["It is", "It is. !", "!It is"]),
        ("lower_case", None, ["tea, 3 cups."], ["Tea.", "tEa"]),
        ("first_word", "Well", ["Well, tea.", '"well tea'], ["Wells are deep.", "Tea. Well"]),
        ("keyword", "often", ["I often do.", "Often!"], ["I soften it.", "of ten"]),
        ("keyword_twice", "often", ["Often, often.", "often often often"], ["often", "often soften"]),
        ("quoted", None, ['"Tea."', "“Tea.”\n"], ['"Tea."s', '"', '"Tea." he said "hot"', "'Tea.'"]),
    ],
)  # fmt: skip
def test_checks_by_hand(name, value, right, wrong):
    constraint = Constraint(KINDS[name], value)
    assert [constraint.fulfilled(response) for response in right] == [True] * len(right)
    assert [constraint.fulfilled(response) for response in wrong] == [False] * len(wrong)


def test_every_kind_has_a_case_and_wordings_say_one_sentence_each():
    cases = {mark.args[1][i][0] for mark in test_checks_by_hand.pytestmark for i in range(len(mark.args[1]))}
    assert cases == KINDS.keys() and len(KINDS) >= 10
    for constraint in EVERY:
        assert all(len(sentences(asked)) == 1 and asked.endswith(".") for asked in constraint.asked())


@pytest.mark.parametrize("nothing", ["", " \n", "?", "!", "1. 2. 3.", "1.\n2.\n3.", '""', "...", "- \n- "])
def test_an_answer_without_a_word_fulfils_nothing(nothing):
    assert not [constraint for constraint in EVERY if constraint.fulfilled(nothing)]


@settings(max_examples=50, deadline=None)
@given(st.text() | st.text('a1.?!"-*• \n,”_)'))
def test_a_check_takes_any_text(response):
    for kind in KINDS.values():
        assert Constraint(kind, kind.values[0]).fulfilled(response) in (True, False)


@pytest.mark.parametrize("part", ["a", ".", "1. a\n", '"', " ", "a?) "])
def test_long_texts_take_linear_time(part):
    response = part * (200_000 // len(part))
    start = time.process_time()
    for name in ("one_sentence", "numbered_list", "bullet_list", "question_end", "first_word", "quoted"):
        Constraint(KINDS[name], KINDS[name].values[0]).fulfilled(response)
    assert time.process_time() - start < 5  # 0.1 to 0.3 s; with a check of quadratic time it is hours


def test_prompts_are_distinct_even_and_read_back():
    topics, kinds = TOPICS[:50], ["max_words", "one_sentence", "numbered_list", "question_end"]
    prompts = write(topics, 200, kinds, 0.25, random.Random(0))
    requests = [read(prompt) for prompt in prompts]
    assert len({*prompts}) == 200 and prompts == write(topics, 200, kinds, 0.25, random.Random(0))
    assert set(Counter(request.topic for request in requests).values()) == {4}
    assert Counter(request.constraints[0].kind.name for request in requests) == dict.fromkeys(kinds, 50)
    assert 25 < sum(len(request.constraints) == 2 for request in requests) < 75
    for request in requests:
        kinds_here = [constraint.kind for constraint in request.constraints]
        assert len(kinds_here) == 1 or kinds_here[0].goes_with(kinds_here[1])


def test_prompts_say_what_they_ask_for():
    request = read(
        'What is interesting about tea? Use at most 20 words. Use the word "often" in your answer.'
    )
    assert request is None  # the topic is green tea
    request = read('Write about green tea. Use at most 20 words. Use the word "often" in your answer.')
    assert request.topic == "green tea"
    assert [(c.kind.name, c.value) for c in request.constraints] == [("max_words", 20), ("keyword", "often")]
    assert read("Write about green tea.") is read("Who are you?") is read("") is None


@pytest.mark.parametrize(
    ("count", "kinds", "message"),
    [
        (9, ["no_commas"], "9 prompts can't be made of 8 topics and 1 kinds of constraints; at most 8"),
        (1, ["commas"], "there is no kind of constraints 'commas'; there are max_words, one_sentence, "),
    ],
)
def test_what_no_prompts_can_be_made_of_is_refused(count, kinds, message):
    with pytest.raises(BadInput, match=message):
        write(TOPICS[:8], count, kinds, 0.0, None)


def test_data_is_the_same_every_time_and_sets_share_no_topic():
    data = make_data(3, SIZES)
    assert data == make_data(3, SIZES) != make_data(4, SIZES)
    assert {name: len(rows) for name, rows in data.items()} == SIZES
    topics = [{read(row["instruction"]).topic for row in rows} for rows in data.values()]
    assert len(set.union(*topics)) == sum(map(len, topics))
    # Other sizes and kinds leave each topic in its set.
    fewer = make_data(3, {"pairs": 20, "held_out": 9}, ["no_commas"])
    assert {read(row["instruction"]).topic for row in fewer["held_out"]} <= topics[2]
    half = make_data(3, {"pairs": 20}, topics=TOPICS[::2])
    assert {read(row["instruction"]).topic for row in half["pairs"]} <= {*TOPICS[::2]}
