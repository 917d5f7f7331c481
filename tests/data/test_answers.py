"""Files of answers and of preferences: nothing that changes a prompt is passed over."""

import json
from collections import Counter

import pytest

from dice.data.answers import read_answers, read_pairs
from dice.errors import BadInput


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
HISTORY = [user("I caught a cod."), said("Well done!")]
ASKED = user("What to drink?")
WHOLE = [*HISTORY, ASKED]
TOOL = {"role": "tool", "content": "22 degrees"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look"}}]}


@pytest.fixture
def read(tmp_path):
    """Reads rows as a file; `read(...)` as answers, `read.pairs(...)` as preferences."""

    def file(rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def answers(*rows):
        return read_answers(file(rows), "data")

    answers.pairs = lambda *rows: read_pairs(file(rows), "data")
    return answers


def pair(before, **columns):
    """A row whose answers are conversations: some turns, then the answer."""
    return {"chosen": [*before, said("Wine.")], "rejected": [*before, said("Cola.")], **columns}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (pair(WHOLE), WHOLE),
        (pair([SYSTEM, *WHOLE]), [SYSTEM, *WHOLE]),
        (pair(WHOLE, prompt=WHOLE), WHOLE),
        (pair([], prompt=WHOLE), WHOLE),
        (pair(WHOLE, prompt="What to drink?"), WHOLE),  # the prompt is given without its history
        (pair([SYSTEM, ASKED], prompt="What to drink?"), [SYSTEM, ASKED]),
        (pair([ASKED], prompt=[SYSTEM, ASKED]), [SYSTEM, ASKED]),
        (pair(WHOLE, system="Be brief."), [SYSTEM, *WHOLE]),
        (pair([ASKED], prompt="What to drink?", messages=[ASKED, said("Wine.")]), [ASKED]),  # UltraFeedback
    ],
)
def test_answers_that_are_conversations_keep_their_context(read, row, prompt):
    ((found,), dropped) = read.pairs(row)
    assert (found.messages, found.chosen, found.rejected) == (prompt, "Wine.", "Cola.")
    assert not dropped


OTHER_TURNS = "rows with an answer to other turns than the prompt's"
NOT_ASSISTANTS = "rows with an answer that is not the assistant's"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair(WHOLE, prompt="What to eat?"), OTHER_TURNS),
        (pair([ASKED], prompt=WHOLE), OTHER_TURNS),
        (pair(WHOLE) | {"rejected": [ASKED, said("Cola.")]}, OTHER_TURNS),
        ({"chosen": [*WHOLE, said("a"), user("Bye.")], "rejected": [*WHOLE, said("b")]}, NOT_ASSISTANTS),
        ({"prompt": "Hi", "chosen": user("a"), "rejected": said("b")}, NOT_ASSISTANTS),
        (pair([said("Hm."), ASKED], prompt="What to drink?"), "turns out of order"),  # several answers
        (pair([ASKED, CALL, TOOL], prompt="What to drink?"), "rows with calls of tools"),
        (pair([ASKED, said("Let me see."), TOOL]), "rows with turns by 'tool'"),
        ({"prompt": "Hi", "chosen": [CALL], "rejected": [said("b")]}, "rows with calls of tools"),
    ],
)
def test_answers_to_other_turns_than_the_prompt_are_counted(read, row, reason):
    (kept,), dropped = read.pairs(row, {"prompt": "Hi", "chosen": "a", "rejected": "b"})
    assert kept.chosen == "a" and dropped == Counter({reason: 1})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "What to eat?", "response": [ASKED, said("Wine.")]}, OTHER_TURNS),
        ({"prompt": "Hi", "response": [user("Hi")]}, NOT_ASSISTANTS),
        ({"messages": [*WHOLE]}, NOT_ASSISTANTS),
        ({"messages": [*WHOLE, CALL, TOOL, said("Wine.")]}, "rows with calls of tools"),
    ],
)
def test_responses_to_other_turns_than_the_prompt_are_counted(read, row, reason):
    _, dropped = read(row, {"prompt": "Hi", "response": "a"})
    assert dropped == Counter({reason: 1})


def test_a_response_that_is_a_conversation_keeps_its_context(read):
    ((found,), _) = read({"prompt": "What to drink?", "response": [*WHOLE, said("Wine.")]})
    assert (found.messages, found.responses) == (WHOLE, ["Wine."])


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "What to drink?", "system": "Be brief."}, [SYSTEM, ASKED]),
        ({"prompt": [ASKED], "system": "Be brief."}, [SYSTEM, ASKED]),
        ({"messages": [SYSTEM, ASKED, said("x")], "system": "Be brief."}, [SYSTEM, ASKED]),
        ({"instruction": "What to drink?", "history": [["I caught a cod.", "Well done!"]]}, WHOLE),
        ({"instruction": "What to", "input": "drink?"}, [user("What to\ndrink?")]),
        ({"prompt": "What to drink?", "system": "", "history": [], "input": None, "tools": None}, [ASKED]),
        ({"instruction": "What to drink?", "prompt": "What to drink?"}, [ASKED]),
    ],
)
def test_what_belongs_to_a_prompt_is_read(read, row, prompt):
    ((found,), _) = read(row | {"response": "Wine."})
    assert found.messages == prompt


def test_every_row_tells_its_own_columns(read):
    """The first row has no input, no system prompt and no turns."""
    found, _ = read(
        {"instruction": "Hi", "output": "a"},
        {"instruction": "Hi", "input": "there", "system": "Be brief.", "output": "b"},
        {"prompt": WHOLE, "response": "c"},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "d"}]},
    )
    assert [answer.messages for answer in found] == [
        [user("Hi")],
        [SYSTEM, user("Hi\nthere")],
        WHOLE,
        [user("Hi")],
    ]
    assert [answer.responses for answer in found] == [["a"], ["b"], ["c"], ["d"]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "Hi", "tools": "[{}]"},
            "rows.jsonl:2: column 'tools' changes the prompt, and",
        ),
        ({"prompt": "Hi", "images": ["a.png"]}, "rows.jsonl:2: column 'images' changes the prompt"),
        ({"messages": [ASKED], "history": [["a", "b"]]}, "column 'history' changes .* beside 'messages'"),
        ({"messages": [ASKED], "input": "b"}, "column 'input' changes the prompt, and is not read beside"),
        ({"prompt": "Hi", "history": "before"}, "rows.jsonl:2: the history must be a list"),
        ({"prompt": "Hi", "system": 5}, "rows.jsonl:2: the system prompt is 5; it must be text"),
    ],
)
def test_what_changes_a_prompt_and_cannot_be_read_is_refused_by_name(read, row, message):
    with pytest.raises(BadInput, match=message):
        read({"prompt": "Hi", "response": "a"}, row | {"response": "b"})


def test_columns_that_tell_of_different_prompts_are_counted(read):
    _, dropped = read(
        {"prompt": "Hi", "response": "a"},
        {"prompt": "Hi", "instruction": "Ho", "response": "a"},
        {"messages": [SYSTEM, ASKED], "system": "Be kind.", "response": "a"},
    )
    assert dropped == Counter(
        {
            "rows with another prompt in 'prompt' than in 'instruction'": 1,
            "rows with another system prompt in 'system' than in 'messages'": 1,
        }
    )
