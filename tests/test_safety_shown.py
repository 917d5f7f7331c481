"""What docs/safety.md promises of what is shown and kept: no secrets, and no tricks of texts."""

import os
import sys

import pytest
from commands import run_script

from dice.errors import BadInput, StageFailed, clean, first_in, printable, redacted, secrets
from dice.launch.console import say
from dice.launch.processes import run_logged
from dice.recipe.load import load_recipe

TOKEN = "hf_ThisIsASecretOfTheEnvironment"


# ---- secrets


@pytest.mark.slow
def test_a_loop_leaves_no_secret_behind(fake_settings, tmp_path):
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "MY_DB_PASSWORD")
    secret = {name: f"{TOKEN}-{name}" for name in names}
    done = run_script("bash", "scripts/run_dice/iter.sh", "tiny", "rounds=1", *fake_settings, **secret)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert len(files) > 15 and not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in done.stdout + done.stderr


def test_logs_are_cleaned_however_a_program_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-but-long")
    tell = "import os, sys; print(dict(os.environ)); sys.exit('no access for ' + os.environ['HF_TOKEN'])"
    with pytest.raises(Exception, match=r"no access for \[HF_TOKEN\]"):
        run_logged([sys.executable, "-c", tell], tmp_path / "x.log", "x", "steps", lambda: (0, 0))
    text = (tmp_path / "x.log").read_text()
    assert TOKEN not in text and "[HF_TOKEN]" in text and "false-but-long" in text
    assert TOKEN not in str(BadInput(f"refused: {TOKEN}"))


def test_a_secret_does_not_get_into_a_recipe(fake_settings, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for override in (f"policy=https://me:{TOKEN}@host/model", "prepare=x ${oc.env:HF_TOKEN}"):
        with pytest.raises(BadInput, match="the value of HF_TOKEN is in it") as caught:
            load_recipe("tiny", [*fake_settings, override])
        assert TOKEN not in str(caught.value)
    monkeypatch.setenv("MY_PASSWORD", '%it\'s-a-"secret"\\1')  # not as YAML writes it
    with pytest.raises(BadInput, match="train.args.run_note: the value of MY_PASSWORD is in it"):
        load_recipe("tiny", [*fake_settings, "train.run_note=x ${oc.env:MY_PASSWORD}"])
    nested = (
        "generate.engine_args.x.hf_token",
        "score.reward_args.hf_hub_token",
        "score.reward_args.x.password",
    )
    for key in ("train.hf_hub_token", "generate.engine_args.hf_token", "train.swanlab_api_key", *nested):
        with pytest.raises(BadInput, match="a token or password, which would be written down"):
            load_recipe("tiny", [*fake_settings, f"{key}=abc"])


def test_what_counts_as_a_secret(monkeypatch):
    for name in [*os.environ]:
        monkeypatch.delenv(name)
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "github_token",
        "SHORT_KEY",
        "TOKENIZERS_PARALLELISM",
        "MONKEY_SIZE",
    ):
        monkeypatch.setenv(name, "abc" if name == "SHORT_KEY" else f"value of {name}")
    assert secrets().keys() == {"AWS_SECRET_ACCESS_KEY", "github_token"}


def test_a_secret_within_another_leaves_no_rest(monkeypatch):
    monkeypatch.setenv("A_KEY", "abcdefgh")
    monkeypatch.setenv("B_TOKEN", "abcdefghSECRETPART")
    assert redacted("abcdefghSECRETPART, abcdefgh") == "[B_TOKEN], [A_KEY]"


SECRET = 'p@s/s é"w\\rd'


@pytest.mark.parametrize(
    "written",
    [
        'p@s/s é"w\\rd',
        "p%40s%2Fs%20%C3%A9%22w%5Crd",  # of a URL: all that may be escaped
        "p%40s/s+%c3%a9%22w%5crd",  # of a form
        "p@s%2Fs%20é%22w%5Crd",  # some of it
        'p@s/s é\\"w\\\\rd',  # of JSON
        'p@s\\/s \\u00e9\\"w\\\\rd',  # of JSON in ASCII
        'p@s/s \\\\u00e9\\\\\\"w\\\\\\\\rd',  # of JSON in JSON
        'p@s/s \\xe9"w\\\\rd',  # of Python
    ],
)
def test_a_secret_is_known_however_it_is_written(tmp_path, monkeypatch, written):
    monkeypatch.setenv("MY_PASSWORD", SECRET)
    assert redacted(f"at {written}!") == "at [MY_PASSWORD]!"
    assert first_in(f"https://me:{written}@host") == "MY_PASSWORD" and first_in(written[1:]) is None
    (tmp_path / "log").write_bytes(b"\xff" + written.encode() + b"\n\xe9")
    clean(tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == b"\xff[MY_PASSWORD]\n\xe9"
    assert str(StageFailed(f"train: {written}")) == "train: [MY_PASSWORD]"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pw@judge.example.com:8000/v1", "no route to [OPENAI_BASE_URL], nor to localhost:8000"),
        ("http://localhost:8000/v1", "no route to judge.example.com, nor to [OPENAI_BASE_URL]"),
        ("http://localhost/v1", "no route to judge.example.com, nor to localhost:8000"),
        ("http://[::1", "no route to judge.example.com, nor to localhost:8000"),
    ],
)
def test_the_host_of_the_judge_is_not_shown(monkeypatch, url, shown):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert redacted("no route to judge.example.com, nor to localhost:8000") == shown
    assert first_in("judge.example.com") is None  # which may be part of a path in a recipe


# ---- texts


ODD = "[red]not markup[/red] \x1b[2Jcleared\x07 \rover \u202eturned"


def test_texts_are_shown_as_they_are(capsys):
    say(ODD)
    assert r"[red]not markup[/red] \x1b[2Jcleared\x07 \rover \u202eturned" in capsys.readouterr().out
    assert str(BadInput(f"a: {ODD}\nb")) == "a: " + printable(ODD) + r"\nb"
    assert str(StageFailed(f"a: {ODD}\nb")) == "a: " + printable(ODD) + "\nb"  # it may have several lines
    assert len(str(BadInput("x" * 10_000))) <= BadInput.longest


def test_the_end_of_a_log_can_not_write_to_the_terminal(tmp_path):
    tell = f"import sys; sys.exit({ODD!r})"
    with pytest.raises(Exception, match="x failed") as caught:
        run_logged([sys.executable, "-c", tell], tmp_path / "x.log", "x", "steps", lambda: (0, 0))
    assert "\x1b" not in str(caught.value) and r"\x1b[2Jcleared" in str(caught.value)


def test_a_model_card_takes_no_markdown_from_names(fake_run):
    from dice.tools.model_card import _table

    cells = _table([{"model": "a|b\n# big <script>x</script> [link](http://x) `tick`"}])
    assert (
        cells.splitlines()[2] == r"| a\|b # big &lt;script&gt;x&lt;/script&gt; \[link\](http://x) \`tick\` |"
    )
