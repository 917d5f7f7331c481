"""A judge behind any server that speaks OpenAI's protocol: vLLM's, or a hosted one.

What fails after all attempts is counted. Where nothing works any more, scoring stops, and goes on from
there when it is started again.
"""

from collections.abc import Callable

from dice.errors import BadInput, StageFailed
from dice.recipe.groups import Score
from dice.rewards.openai_client import Answer, Server, ask_all, environment
from dice.rewards.source import Asked

WAIT = 1.0  # seconds before a question is asked again; twice as long before each further time


def check() -> tuple[str, str | None]:
    """The server's address and key. Raises BadInput where the environment names none."""
    if found := environment():
        return found
    raise BadInput(
        "score.judge is neither policy nor a folder, so a server has it, but none is named: set "
        "OPENAI_BASE_URL (and OPENAI_API_KEY where it wants a key)"
    )


class Served:
    """Asks the server, many questions at once."""

    is_heard = False  # whether it has ever answered

    def __init__(self, score: Score) -> None:
        self.samples = score.judge_samples
        self.server = Server(
            score.judge,
            *check(),
            concurrency=score.judge_concurrency,
            readings=1,  # an answer without a grade is counted, not asked for again
            timeout=score.judge_timeout,
            wait=WAIT,
            options={"temperature": score.judge_temperature, "max_tokens": score.judge_max_tokens},
        )

    def ask(self, questions: list[Asked], on_answered: Callable[[int, list[str]], None]) -> None:
        """As `Judge.ask`. Raises BadInput where the server refuses, or has failed for too long."""
        found: list[list[str]] = [[] for _ in questions]
        left = [self.samples for _ in questions]

        def take(index: int, answer: Answer) -> None:
            question = index // self.samples
            left[question] -= 1
            found[question] += [] if answer.failure else [answer.text]
            if not left[question]:
                on_answered(question, found[question])

        asked = [question.messages for question in questions for _ in range(self.samples)]
        try:
            self.is_heard = ask_all(self.server, asked, lambda text: text, take, self.is_heard)
        except StageFailed as error:
            raise BadInput(f"score.judge: {error}") from None
