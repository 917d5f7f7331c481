"""What the words of a command line mean, which are refused, and what help says of a command."""

import pytest

from dice.errors import BadInput
from dice.launch import command_line


class ForUsers:
    """For you:"""

    def mix(self, source: str, *words: str, times: int = 1, to: str | None = None, dry: bool = False) -> None:
        """Mix a source.

        dice mix FILE [--times=N]
        dice mix RUN

        It is mixed
        well.

        Args:
            source (FILE or RUN): What is mixed.
            words (key=value): More of it.
            times (N): How often.
            to: Where it goes.
        """
        calls.append((source, words, times, to, dry))


class ForTheLoop:
    """For the loop:"""

    def take(self, run: str, round: int, *, name: str, force: bool = False, **options: str | float) -> str:
        """Take a round.

        Args:
            name: Its name.
            force: Take it by force.
        """
        calls.append((run, round, name, force, options))
        return "taken"


class Commands(ForUsers, ForTheLoop):
    """Two commands.

    Args:
        run: A run.
        round: A round.
        dry: Nothing is done.

    Options:
        first (N): So many.
    """


calls: list[tuple] = []


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


def call(*words: str) -> None:
    command_line.call(Commands, list(words), "1.2")


def test_words_become_values():
    """Texts stay as they are typed, also where they look like numbers or Python; switches stand anywhere."""
    call("mix", "--dry", "007", "a=None", "1e5", "--to", "True")
    call("mix", "x", "--times=3")
    call("take", "a,b", "2", "--name={'a': 1}", "--first=0.5")
    call("take", "--force", "--run=r", "1", "--name=n")
    assert calls == [
        ("007", ("a=None", "1e5"), 1, "True", True),
        ("x", (), 3, None, False),
        ("a,b", 2, "{'a': 1}", False, {"first": 0.5}),
        ("r", 1, "n", True, {}),
    ]


def test_what_a_command_answers_is_printed(capsys):
    call("take", "r", "1", "--name=n")
    call("--version")
    assert capsys.readouterr().out == "taken\n1.2\n"


@pytest.mark.parametrize("text", ["one", "None", "nan", "[" * 100_000, "1" * 5_000])
def test_what_is_no_number_is_left_to_the_command(text):
    call("take", "r", text, "--name=n")
    assert calls == [("r", text, "n", False, {})]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("tkae", "dice has no command 'tkae'; did you mean take?"),
        ("version", "dice has no command 'version'; did you mean --version?"),
        ("42", "dice has no command '42'; see `dice --help`"),
        ("take r 1 --nmae=n", "take has no flag --nmae; did you mean --name?"),
        ("take r 1 -f", "take has no flag -f; see `dice take --help`"),
        ("take r 1 -- --trace", "take has no flag --; see `dice take --help`"),
        ("take r 1 -", "take has no flag -; see `dice take --help`"),
        ("take r 1 --force=no", "take: --force takes no value; write --force, or leave it out"),
        ("take r 1 --name=", "take: --name needs a value: --name=NAME"),
        ("take r 1 --name", "take: --name needs a value: --name=NAME"),
        ("take r 1 --name --force", "take: --name needs a value: --name=NAME"),
        ("take r 1 2 --name=n", "take takes no '2'; see `dice take --help`"),
        ("take r 1 --name=n __class__", "take takes no '__class__'; see `dice take --help`"),
        ("take 1 --run=r --name=n x", "take takes no 'x'; see `dice take --help`"),
        ("take", "take needs RUN and ROUND and --name=NAME; see `dice take --help`"),
        ("take --round=1 --name=n", "take needs RUN; see `dice take --help`"),
        ("mix", "mix needs FILE or RUN; see `dice mix --help`"),
        ("mix x --words=y", "mix has no flag --words; see `dice mix --help`"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_done(words, line):
    with pytest.raises(BadInput) as refused:
        call(*words.split())
    assert str(refused.value) == line and not calls


def test_a_home_that_the_shell_leaves_alone(monkeypatch):
    monkeypatch.setenv("HOME", "/home/mine")
    call("take", "r", "1", "--name=~/folder")
    assert "/home/mine/folder" in str(calls)
    calls.clear()


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_commands_in_their_groups(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    call(*words)
    assert capsys.readouterr().out == (
        "usage: dice COMMAND ..., or python -m dice COMMAND ...\n"
        "\n"
        "Two commands.\n"
        "\n"
        "For you:\n"
        "  mix   Mix a source.\n"
        "\n"
        "For the loop:\n"
        "  take  Take a round.\n"
        "\n"
        "`dice COMMAND --help` explains a command and its flags;\n"
        "`dice --version` prints the version.\n"
    )


def test_help_explains_a_command(capsys):
    call("mix", "x", "--help")
    assert capsys.readouterr().out == (
        "usage: dice mix FILE [--times=N]\n"
        "       dice mix RUN\n"
        "\n"
        "Mix a source.\n"
        "\n"
        "It is mixed well.\n"
        "\n"
        "  FILE or RUN  What is mixed.\n"
        "  key=value    More of it.\n"
        "  --times=N    How often.\n"
        "  --to=TO      Where it goes.\n"
        "  --dry        Nothing is done.\n"
    )
    call("take", "--nothing", "-h")
    assert capsys.readouterr().out.startswith(
        "usage: dice take RUN ROUND --name=NAME [--force] [--first=N]\n\nTake a round.\n\n"
    )
    assert not calls
