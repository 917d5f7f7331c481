"""Data sets as dataset_info.json describes them; mistakes named by file, line and key."""

import os
from collections import Counter

import pytest
from data_sets import write

from dice.data.prompts_and_preferences import read_preferences, read_prompts
from dice.errors import BadInput
from dice.recipe.paths import ROOT

DEMO = ROOT.parent / "shared" / "data" / "dpo_en_demo.json"


PAIR_COLUMNS = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
ROLE_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


def messages(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    listed = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return ([{"role": "system", "content": system}] if system else []) + listed


def test_alpaca_with_everything(tmp_path):
    row = {"q": "And now?", "more": "Be brief.", "sys": "You are kind.", "before": [["Hi", "Hello"]]}
    columns = {"prompt": "q", "query": "more", "system": "sys", "history": "before"}
    prompts, dropped = read_prompts(write(tmp_path, [row], {"columns": columns}), "it")
    assert prompts[0].messages == messages("Hi", "Hello", "And now?\nBe brief.", system="You are kind.")
    assert not dropped


def test_alpaca_without_columns_uses_llama_factorys(tmp_path):
    rows = [{"instruction": "Hi", "input": "", "output": "Hello"}, {"instruction": "Bye", "output": "Bye"}]
    prompts, _ = read_prompts(write(tmp_path, rows, {"columns": None}), "it")
    assert [prompt.messages[-1]["content"] for prompt in prompts] == ["Hi", "Bye"]


def test_json_lines(tmp_path):
    text = '{"instruction": "one"}\n\n{"instruction": "two\\u2028lines"}\r\n'
    prompts, _ = read_prompts(
        write(tmp_path, text, name="rows.jsonl", entry={"file_name": "rows.jsonl"}), "it"
    )
    assert [prompt.messages[-1]["content"] for prompt in prompts] == ["one", "two\u2028lines"]


def test_sharegpt_preferences_with_system_and_turns(tmp_path):
    row = {
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
            {"from": "human", "value": "More"},
        ],
        "chosen": {"from": "gpt", "value": "yes"},
        "rejected": {"from": "gpt", "value": "no"},
    }
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    folder = write(tmp_path, [row], {"formatting": "sharegpt", "ranking": True, "columns": columns})
    pairs, _ = read_preferences(folder, "it")
    assert pairs[0].messages == messages("Hi", "Hello", "More", system="Be kind.")
    assert (pairs[0].chosen, pairs[0].rejected) == ("yes", "no")
    prompts, _ = read_prompts(folder, "it")
    assert prompts[0].prompt_id == pairs[0].prompt_id


def test_sharegpt_with_renamed_tags_and_an_answer_at_the_end(tmp_path):
    row = {"chat": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    entry = {"formatting": "sharegpt", "columns": {"messages": "chat"}, "tags": ROLE_TAGS}
    prompts, _ = read_prompts(write(tmp_path, [row], entry), "it")
    assert prompts[0].messages == messages("Hi")


def test_unusable_rows_are_dropped_and_counted(tmp_path):
    def chat(*roles):
        return {"conversations": [{"from": role, "value": f"{i}"} for i, role in enumerate(roles)]}

    rows = [
        chat("human"),
        chat("human"),  # the same again
        chat("gpt", "human"),
        chat("human", "human"),
        chat("human", "gpt", "function_call"),
        chat(),
        {"conversations": [{"from": "human", "value": "  "}]},
    ]
    entry = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
    prompts, dropped = read_prompts(write(tmp_path, rows, entry), "it")
    assert len(prompts) == 1
    assert dropped == Counter(
        {
            "turns out of order": 2,
            "empty prompts": 2,
            "duplicate prompts": 1,
            "rows with turns by 'function_call'": 1,
        }
    )


def test_half_characters_are_dropped(tmp_path):
    """Unpaired surrogates are no text: no tokenizer and no UTF-8 file takes them."""
    prompts, dropped = read_prompts(write(tmp_path, [{"instruction": "\ud83d"}, {"instruction": "b"}]), "it")
    assert len(prompts) == 1
    assert dropped == Counter({"rows with half a character (an unpaired surrogate)": 1})


def test_identical_and_empty_answers_are_dropped(tmp_path):
    rows = [
        {"instruction": "a", "chosen": "x", "rejected": "x"},
        {"instruction": "b", "chosen": "x", "rejected": "y"},
        {"instruction": "c", "chosen": "x", "rejected": " \n"},
    ]
    pairs, dropped = read_preferences(write(tmp_path, rows, {"ranking": True, "columns": PAIR_COLUMNS}), "it")
    assert len(pairs) == 1 and dropped == Counter({"identical answers": 1, "empty answers": 1})


def test_registered_answers_of_several_turns(tmp_path):
    """Their last turn alone is not the answer to the row's prompt."""
    asked, told = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    rows = [
        {"chat": [asked], "good": [told], "bad": {"role": "assistant", "content": "No"}},
        {"chat": [asked], "good": [asked, told], "bad": [asked, {"role": "assistant", "content": "No"}]},
        {"chat": [asked], "good": [told, asked, told], "bad": told},
        {"chat": [asked], "good": [told, asked], "bad": told},
        {"chat": [asked], "good": asked, "bad": told},
        {"chat": [asked], "good": [{"role": "tool", "content": "22"}, told], "bad": told},
    ]
    columns = {"messages": "chat", "chosen": "good", "rejected": "bad"}
    entry = {"formatting": "sharegpt", "ranking": True, "columns": columns, "tags": ROLE_TAGS}
    pairs, dropped = read_preferences(write(tmp_path, rows, entry), "it")
    assert [(pair.messages, pair.chosen, pair.rejected) for pair in pairs] == [([asked], "Hello", "No")] * 2
    assert dropped == Counter(
        {
            "turns out of order": 1,
            "rows with an answer that is not the assistant's": 2,
            "rows with turns by 'tool'": 1,
        }
    )


@pytest.mark.parametrize("history", [5, True, 0.5, "Hi", {"a": "b"}, [["Hi"]], [5]])
def test_a_history_that_is_none(tmp_path, history):
    columns = {"prompt": "instruction", "history": "before"}
    folder = write(tmp_path, [{"instruction": "a", "before": history}], {"columns": columns})
    with pytest.raises(BadInput, match=r"rows.json:1: the history must be a list of \[prompt, response\]"):
        read_prompts(folder, "it")


@pytest.mark.skipif(not DEMO.exists(), reason=f"{DEMO} is not here")
def test_three_hundred_real_rows_are_read_whole(tmp_path):
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    entry = {"formatting": "sharegpt", "ranking": True, "columns": columns}
    folder = write(tmp_path, DEMO.read_text(encoding="utf-8"), entry)
    pairs, dropped = read_preferences(folder, "it")
    assert len(pairs) == 300 and not dropped
    prompts, dropped = read_prompts(folder, "it")
    assert len(prompts) + dropped["duplicate prompts"] == 300
    assert max(len(prompt.messages) for prompt in prompts) > 6


BAD_FILES = {
    "broken JSON": ('[{"instruction": "a"},\n {"instruction": "b"', "rows.json:2: not JSON"),
    "no comma": (
        '[{"instruction": "a"}\n {"instruction": "b"}]',
        "rows.json:2: not JSON (Expecting ',' delim",
    ),
    "trailing comma": ('[{"instruction": "a"},\n]', "rows.json:2: not JSON (Illegal trailing comma"),
    "deep nesting": ("[" * 100_000, "rows.json: "),
    "endless number": ('[{"instruction": ' + "1" * 5000 + "}]", "rows.json: "),
    "text after the array": ('[{"instruction": "a"}]\nmore', "rows.json:2: not JSON (Extra data"),
    "broken line": ('{"instruction": "a"}\n{"instruction": \n', "rows.json:2: not JSON"),
    "row that is no object": ('[{"instruction": "a"},\n3]', "rows.json:2: a row must be a JSON object"),
    "missing column": (
        '[{"instruction": "a"},\n\n{"prompt": "b", "n": 1}]',
        "rows.json:3: no column 'instruction', which",
    ),
    "number for text": ('[{"instruction": 5}]', "rows.json:1: the prompt is 5; it must be text"),
    "empty array": ("[]", "data set 'it' has no usable prompt (it has no rows)"),
    "empty file": ("", "data set 'it' has no usable prompt (it has no rows)"),
    "only empty prompts": ('[{"instruction": " "}]', "has no usable prompt (1 empty prompts)"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path, case):
    content, message = BAD_FILES[case]
    with pytest.raises(BadInput) as caught:
        read_prompts(write(tmp_path, content), "it")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_column_names_the_registry_and_what_there_is(tmp_path):
    folder = write(tmp_path, '[{"prompt": "b", "n": 1}]')
    with pytest.raises(
        BadInput, match=r"dataset_info.json names as columns.prompt of 'it'; the row has: prompt, n"
    ):
        read_prompts(folder, "it")


def test_broken_utf8(tmp_path):
    folder = write(tmp_path, "[]")
    (tmp_path / "rows.json").write_bytes(b'[{"instruction": "\xff"}]')
    with pytest.raises(BadInput, match=r"rows.json:1: not UTF-8 .* at byte 18"):
        read_prompts(folder, "it")


BAD_ENTRIES = {
    "unknown formatting": ({"formatting": "openai"}, "formatting is 'openai'; there are alpaca, sharegpt"),
    "missing file": ({"file_name": "gone.json"}, "there is no file"),
    "a folder above": ({"file_name": ".."}, "lies outside of"),
    "columns as a list": ({"columns": ["a"]}, "it: columns must be a mapping of names to names"),
    "tags as text": ({"tags": "a"}, "it: tags must be a mapping"),
    "no prompt column": ({"columns": {"response": "output"}}, "it: columns.prompt is missing"),
    "no messages column": (
        {"formatting": "sharegpt", "columns": {"chosen": "x"}},
        "it: columns.messages is missing",
    ),
    "no sample of the rows": ({"num_samples": 0}, "it: num_samples is 0; it must be a whole number"),
    "half a sample": ({"num_samples": 1.5}, "it: num_samples is 1.5; it must be a whole number"),
    "another split": ({"split": "test"}, "it: split is 'test'; a local set has the split train"),
    "no split": ({"split": 3}, "it: split is 3; it must be text"),
    "a subset of a file": ({"subset": "x"}, "it: subset is for sets on the Hub (hf_hub_url)"),
    "a folder of a file": ({"folder": "x"}, "it: folder is for sets on the Hub (hf_hub_url)"),
    "a hash of a Hub set": ({"hf_hub_url": "a/b", "file_sha1": "0"}, "it: file_sha1 is for a local file"),
    "a script": (
        {"script_url": "x"},
        "it: script_url is not supported; name the data by file_name or hf_hub_url",
    ),
    "ranking as text": ({"ranking": "true"}, "it: ranking is 'true'; it must be true or false"),
    "pictures": ({"columns": {"prompt": "a", "images": "b"}}, "it: columns.images is not supported"),
    "no file": ({"file_name": ""}, "it: file_name is missing (or hf_hub_url, for a set on the Hub)"),
}


BAD_ENTRIES |= {
    f"{key} {what}": ({key: name}, f"it: {key} is ")
    for key in ("file_name", "hf_hub_url")
    for what, name in (("too long", "x" * 300), ("of half a character", "é\ud800"), ("with a zero", "\0"))
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries(tmp_path, case):
    entry, message = BAD_ENTRIES[case]
    with pytest.raises(BadInput) as caught:
        read_prompts(write(tmp_path, "[]", entry), "it")
    assert message in str(caught.value) and "dataset_info.json" in str(caught.value)


def test_an_unknown_data_set_is_told_what_there_is(tmp_path):
    with pytest.raises(BadInput, match="no data set 'that'; there are: it"):
        read_prompts(write(tmp_path, "[]"), "that")


def test_a_registry_that_is_not_json(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{\n"it": }')
    with pytest.raises(BadInput, match="dataset_info.json:2: not JSON"):
        read_prompts(str(tmp_path), "it")


def test_a_file_that_is_no_data(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(
        BadInput, match="notes.txt is no data; it must be a .json, .jsonl, .parquet, .csv file"
    ):
        read_prompts(write(tmp_path, "[]", {"file_name": "notes.txt"}), "it")


def test_preferences_must_be_marked_as_ranking(tmp_path):
    with pytest.raises(BadInput, match='it: not a preference set; it needs "ranking": true'):
        read_preferences(write(tmp_path, "[]", {"columns": PAIR_COLUMNS}), "it")


def test_the_older_form_of_preferences_is_named(tmp_path):
    """`output: [chosen, rejected]` under `response`, which today's LLaMA-Factory rejects too."""
    entry = {"ranking": True, "columns": {"prompt": "instruction", "response": "output"}}
    with pytest.raises(BadInput, match="it: columns.chosen is missing"):
        read_preferences(write(tmp_path, [{"instruction": "a", "output": ["b", "c"]}], entry), "it")


def test_a_registry_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "dataset_info.json")
    with pytest.raises(BadInput, match="dataset_info.json: not a file"):
        read_prompts(str(tmp_path), "it")
