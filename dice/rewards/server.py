"""A judge behind any server that speaks OpenAI's protocol: vLLM's, or a hosted one.

Its address is DICE_JUDGE_URL or OPENAI_BASE_URL, its key OPENAI_API_KEY, of the environment; neither is
ever written down. A request that fails for a while (no connection, too slow, 408, 409, 429, 5xx) is tried
again, waiting longer each time, or as long as the server says. What fails for good is counted; where
nothing works any more, scoring stops, and goes on from there when it is started again.
"""

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from dice.errors import BadInput
from dice.rewards import Job
from dice.rewards.judge import Asked

if TYPE_CHECKING:
    from openai import AsyncOpenAI

RETRIES = 6  # waiting up to 0.5, 1, 2, 4, 8, 8 seconds
AT_LEAST = 20  # questions that fail one after the other before a server is given up
REFUSALS = {401: "the key (OPENAI_API_KEY)", 403: "access", 404: "the model's name, or the address"}


def address() -> str | None:
    """The server's address; None for the package's own default."""
    return os.environ.get("DICE_JUDGE_URL") or os.environ.get("OPENAI_BASE_URL")


def check() -> None:
    """Raises BadInput where nothing says which server to ask."""
    if not (address() or os.environ.get("OPENAI_API_KEY")):
        raise BadInput(
            "score.judge is neither policy nor a folder, so a server has it, but none is named: set "
            "DICE_JUDGE_URL (and OPENAI_API_KEY where it wants a key)"
        )


class Served:
    """Asks the server, many questions at once."""

    def __init__(self, job: Job) -> None:
        check()
        self.settings = job.judge
        self.failed = 0  # requests since one worked
        self.patience = max(AT_LEAST, 2 * job.judge["judge_concurrency"])

    def answers(self, questions: list[Asked], on_done: Callable[[int], None]) -> list[list[str]]:
        """As `Judge.answers`. Raises BadInput where the server refuses, or has failed for too long."""
        return asyncio.run(self._all(questions, on_done))

    async def _all(self, questions: list[Asked], on_done: Callable[[int], None]) -> list[list[str]]:
        from openai import AsyncOpenAI

        key = os.environ.get("OPENAI_API_KEY") or "none"  # servers of one's own want none
        room = asyncio.Semaphore(self.settings["judge_concurrency"])
        timeout = self.settings["judge_timeout"]
        async with AsyncOpenAI(
            base_url=address(), api_key=key, timeout=timeout, max_retries=RETRIES
        ) as client:

            async def ask(question: Asked) -> list[str]:
                found = []
                for sample in range(self.settings["judge_samples"]):
                    async with room:
                        found.append(await self._one(client, question, question.seed + sample))
                on_done(1)
                return [text for text in found if text is not None]

            return await asyncio.gather(*map(ask, questions))

    async def _one(self, client: "AsyncOpenAI", question: Asked, seed: int) -> str | None:
        """One answer, or None where it did not come after all attempts."""
        import openai

        try:
            answer = await client.chat.completions.create(
                model=self.settings["judge"],
                messages=question.messages,
                temperature=self.settings["judge_temperature"],
                max_tokens=self.settings["judge_max_tokens"],
                seed=seed,
            )
            said = answer.choices[0].message.content or ""
        except openai.APIStatusError as error:
            if error.status_code in REFUSALS:
                what = REFUSALS[error.status_code]
                raise BadInput(f"score.judge: the server refuses with {error.status_code}: {what}") from None
            return self._missing(str(error.status_code))
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, IndexError) as error:
            return self._missing(type(error).__name__)  # its text may have the address in it
        self.failed = 0
        return said

    def _missing(self, reason: str) -> None:
        self.failed += 1
        print(f"a question to the judge failed: {reason}", flush=True)
        if self.failed >= self.patience:
            raise BadInput(
                f"score.judge: the server does not answer: {self.failed} questions failed one after the "
                f"other, each tried {RETRIES + 1} times (the last: {reason}); what is graded is kept"
            )
