"""What the values of a recipe may be: each key's choices, what is read as another type, what is refused."""

import functools
import json
import operator

import pytest
import yaml

from dice.errors import BadInput
from dice.recipe.load import load_recipe, load_resolved, resolved_yaml

CHOICES = {
    "generate.engine": "'auto', 'hf', 'vllm' or 'fake'",
    "score.reward": "'implicit', 'reward_model', 'judge', 'random' or path/to/file.py:function",
    "score.batch_tokens": "'auto' or a whole number",
    "score.attn_implementation": "'auto', 'sdpa', 'flash_attention_2', 'flash_attention_3' or 'eager'",
    "score.quantization_bit": "4 or 8",
    "pair.length": "'chars' or 'tokens'",
    "pair.alpha": "'auto' or 'grid' or a number",
    "pair.rejected": "'worst', 'random' or 'sigma'",
    "train.reference_logps": "'table' or 'model'",
    "train.pack_tokens": "'auto' or 'off' or a whole number",
    "dtype": "'auto', 'float32', 'bfloat16' or 'float16'",
}


@pytest.mark.parametrize("key", CHOICES)
def test_what_is_none_of_a_keys_choices(key):
    with pytest.raises(BadInput) as caught:
        load_recipe("tiny", [f"{key}=other"])
    assert str(caught.value) == f"on the command line: {key} is 'other'; it must be {CHOICES[key]}"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("rounds='3'", 3),
        ("train.pack_tokens=off", "off"),
        ("rounds=true", "rounds is true; it must be a whole number"),
        ("seed=1.5", "seed is 1.5; it must be a whole number"),
        ("seed=1.0", "seed is 1.0; it must be a whole number"),
        ("policy=2026", "2026"),
        ("policy=[a]", "policy is a list; it must be text"),
        ("report=maybe", "report is 'maybe'; it must be true or false"),
    ],
)
def test_what_is_read_as_another_type(override, value):
    """A number in quotes is a number, and where text is wanted a number is text."""
    key = override.partition("=")[0]
    if isinstance(value, str) and value.startswith(key):
        with pytest.raises(BadInput, match=f"on the command line: {value}"):
            load_recipe("tiny", [override])
    else:
        assert operator.attrgetter(key)(load_recipe("tiny", [override])) == value


ODD_TEXTS = [
    "1e3",
    "${foo}",
    "\\${foo}",
    "a\\\\${b",
    "${",
    "a\r\nb",
    "no",
    "null",
    "0x1f",
    "2020-01-01",
    "<<",
    "\x85",
    "",
]


def test_the_resolved_recipe_reads_back_equal(tmp_path):
    """Numbers, words and interpolations in YAML's and OmegaConf's eyes, and texts that look like them."""
    values = [
        *ODD_TEXTS,
        1e300,
        1e16,
        5e-324,
        -0.0,
        2**70,
        True,
        None,
        [[]],
        {},
        {name: 1 for name in ODD_TEXTS},
    ]
    recipe = load_recipe("tiny")
    recipe.generate.engine_args = {"values": values}
    recipe.prepare = "echo ${HOME} 1e3"
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe))
    assert load_resolved(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("score.reward", "foo"),
        ("score.reward", "check"),
        ("replay.gamma", 2),
        ("replay.gamma", float("nan")),
        ("pair.alpha", "foo"),
        ("pair.per_prompt", 0),
        ("pair.length", "foo"),
        ("pair.rejected", "foo"),
        ("pair.min_samples", 0),
        ("generate.tensor_parallel", 0),
        ("generate.shard_size", 0),
        ("generate.temperature", 0),
        ("train.args", {}),
        ("rounds", 100_000_000),
    ],
)
def test_a_runs_recipe_is_checked_too(tmp_path, key, value):
    block = load_recipe("tiny").model_dump()
    *groups, name = key.split(".")
    functools.reduce(dict.get, groups, block)[name] = value
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(block))
    with pytest.raises(BadInput, match=rf"{path}:\d+: {key.partition('.args')[0]}"):
        load_resolved(path)


PATHS = ("run", "results_dir", "dataset_dir", "policy", "evaluate.judge", "score.judge", "train.config")


@pytest.mark.parametrize("key", PATHS)
def test_a_name_that_no_file_can_have(fake_settings, key):
    with pytest.raises(BadInput, match=f"on the command line: {key} "):
        load_recipe("tiny", [*fake_settings, f"{key}={'x' * 300}"])


def test_a_results_dir_of_one_line(fake_settings, tmp_path):
    """iter.sh reads it from a line; a blank in front of it is a part of its name."""
    for odd in ("\n", "\r", "\x1b", "\x7f"):
        with pytest.raises(BadInput, match="results_dir is '.*'; it must have no newline or other control"):
            load_recipe("tiny", [*fake_settings, f"results_dir={json.dumps(f'a{odd}b')}"])
    with pytest.raises(BadInput, match="on the command line: .* has a newline; in text it is written"):
        load_recipe("tiny", [*fake_settings, "results_dir=a\nb"])
    for fine in (" a b", "é 漢字"):
        assert load_recipe("tiny", [*fake_settings, f'results_dir="{fine}"']).results_dir == fine


def test_values_beyond_all_measure(fake_settings):
    huge = "9" * 400
    overrides = [
        f"{key}={huge}" for key in ("replay.gamma", "pair.alpha", "score.quantization_bit", "rounds")
    ]
    for override in (*overrides, "policy=\ud800", "\ud800=1", "generate.engine_args=[1]", "train=[1]"):
        with pytest.raises(BadInput, match="on the command line"):
            load_recipe("tiny", [*fake_settings, override])
