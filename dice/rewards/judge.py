"""Grades of a judge: a language model that is asked how good a response is, from 0 to 5.

It is asked several times, and the grades are averaged. The judge is the policy itself or another model
of this machine, sampled by the recipe's engine, or one behind a server (`dice.rewards.judge_server`). An
answer without a grade is counted; a response whose answers have none at all gets no reward.
"""

import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from dice.errors import BadInput
from dice.inference.load import load_chat, load_sampler
from dice.inference.sampler import Request
from dice.launch.progress import Counter
from dice.recipe.keys import Recipe
from dice.recipe.paths import resolve
from dice.recipe.seeds import seed_of
from dice.rewards.grades import Kept, grade_of
from dice.rewards.source import Asked, Judge, Scoring, Usable, beside, responses_of
from dice.run import files
from dice.run.rows import Graded, Message
from dice.run.run import Run, model_path

PLACES = ("{prompt}", "{response}")
PROMPT = """\
You grade answers. Here is a conversation and the answer that an assistant gave to its last message.

=== Conversation ===
{prompt}

=== Answer ===
{response}

=== Your task ===
How well does the answer do what was asked for? Look at whether it is right, whether anything that was
asked for is missing, and whether it keeps to the point. That an answer is long, or sounds sure of itself,
earns it nothing. The grades:
0: of no use, or wrong throughout
1: touches on what was asked, mostly wrong or missing
2: partly right, with serious mistakes or gaps
3: mostly right, with mistakes or gaps that matter
4: right and complete, with small flaws
5: could not be better
Say in one or two sentences what decides the grade. Then end with a line of exactly this form, N being a
number from 0 to 5:
Grade: N"""


class Source(Scoring):
    """The mean of the grades that could be read."""

    written = ("part", "dropped", "grades")

    def __init__(self, run: Run, t: int, counter: Counter, per_token: bool = False) -> None:
        super().__init__(run, t, counter, per_token)
        self.prompt = prompt_of(self.recipe)
        self.judge: Judge = load_judge(run, t)

    def rewards(self, shard: Path, rows: list[Usable]) -> list[float | str]:
        """The grades; they are also written down one by one, in `scores/grades-*.jsonl`.

        Until all of the shard's are there they lie in `scores/judging-*.jsonl`, where an earlier worker may
        have left some.
        """
        unfinished = beside(shard, "judging")
        keys = [(row.prompt_id, row.sample) for row in rows]
        with Kept(unfinished, self.recipe.score.judge_samples) as kept:
            asked = [at for at, key in enumerate(keys) if key not in kept.found]
            self.counter.add(len(rows) - len(asked))

            def take(index: int, texts: list[str]) -> None:
                kept.add(Graded(*keys[asked[index]], [*map(grade_of, texts)]))
                self.counter.add(1)

            if kept.found:
                self.judge.is_heard = True
            if asked:
                self.judge.ask([self._question(rows[at]) for at in asked], take)
        graded = [kept.found[key] for key in keys]
        files.write_shard(beside(shard, "grades"), graded)
        files.remove(unfinished)
        return [_mean(row.grades) for row in graded]

    def _question(self, row: Usable) -> Asked:
        key = f"judge/{row.prompt_id}/{row.sample}"
        messages = question(self.prompt, row.messages, row.response)
        return Asked(key, messages, seed_of(self.recipe.seed, self.t, key))


class Local:
    """A judge on this machine: the policy, or a model's folder, sampled by the recipe's engine."""

    is_heard = True

    def __init__(self, recipe: Recipe, name: str) -> None:
        engine, score = recipe.generate.engine, recipe.score
        options = recipe.sampling(
            samples=score.judge_samples,
            temperature=score.judge_temperature,
            max_new_tokens=score.judge_max_tokens,
        ).generate
        self.samples = options.samples
        self.chat = load_chat(engine, name, recipe.encoding)
        self.sampler = load_sampler(engine)(name, list(self.chat.stop_ids), options, recipe.dtype)

    def ask(self, questions: list[Asked], on_answered: Callable[[int, list[str]], None]) -> None:
        """As the answers come from the engine; a question that leaves no room for one has none."""
        found: dict[str, list[tuple[int, str]]] = {}
        places, requests = {}, []
        for index, question in enumerate(questions):
            ids = self.chat.encode_prompt(question.messages)
            if len(ids) < self.sampler.max_model_len:
                places[question.key], found[question.key] = index, []
                requests.append(Request(question.key, ids, question.seed))
            else:
                on_answered(index, [])
        for sampled in self.sampler.sample(requests):
            texts = found[sampled.prompt_id]
            texts.append((sampled.sample, self.chat.decode(sampled.response_ids)))
            if len(texts) == self.samples:
                on_answered(places[sampled.prompt_id], [text for _, text in sorted(texts)])


def load_judge(run: Run, t: int) -> Judge:
    """The judge of a round, its model loaded if it is here. Raises BadInput where it can't be used."""
    name = run.recipe.score.judge
    if is_local(name):
        return Local(run.recipe, run.policy(t) if name == "policy" else model_path(name))
    from dice.rewards.judge_server import Served

    return Served(run.recipe.score)


def is_local(name: str) -> bool:
    """Whether a judge's model is sampled here: the policy, or a folder. Other names are a server's."""
    return name == "policy" or resolve(name).is_dir()


def basis(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that grades depend on; how patiently a server is asked is none of it."""
    score, generate = recipe.score, recipe.generate
    own = {"judge": score.judge, "judge_prompt": prompt_of(recipe)}
    own |= {key: getattr(score, key) for key in ("judge_samples", "judge_temperature", "judge_max_tokens")}
    if is_local(score.judge):
        own |= {key: getattr(generate, key) for key in ("engine", "top_p", "max_model_len", "engine_args")}
    return own


def prompt_of(recipe: Recipe) -> str:
    """The text that asks the judge for a grade. Raises BadInput where the recipe's file is of no use."""
    if not recipe.score.judge_prompt:
        return PROMPT
    file = resolve(recipe.score.judge_prompt)
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise BadInput(f"score.judge_prompt: {file} can't be read ({reason})") from None
    if not text:
        raise BadInput(
            f"score.judge_prompt: {file} is empty; it must have {' and '.join(PLACES)}, or be a turn"
        )
    lacking = [name for name in PLACES if name not in text]
    if len(lacking) == 1:
        raise BadInput(f"score.judge_prompt: {file} has no {lacking[0]}; it must have both places, or none")
    return text


def question(prompt: str, messages: list[Message], response: str) -> list[Message]:
    """What a judge is asked: a prompt with everything in its places, or without places, the next turn."""
    if PLACES[0] not in prompt:
        asked = [Message(role="assistant", content=response), Message(role="user", content=prompt)]
        return [*messages, *asked]
    texts = dict(zip(PLACES, (conversation(messages), response), strict=True))
    # In one go: a text may itself have {response} in it.
    text = re.sub("|".join(map(re.escape, PLACES)), lambda match: texts[match[0]], prompt)
    return [Message(role="user", content=text)]


def conversation(messages: list[Message]) -> str:
    """A conversation as text: a single question as it is, turns with who speaks."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)


def _mean(grades: list[float | None]) -> float | str:
    read = [grade for grade in grades if grade is not None]
    if read:
        return fmean(read)
    return "without a grade that can be read" if grades else "that the judge did not answer to"


def tally(run: Run, t: int) -> dict[str, int]:
    """How many grades a round that has been scored asked for, and what became of them."""
    asked = read = answered = 0
    for shard in responses_of(run, t):
        for row in files.read_rows(beside(shard, "grades"), Graded):
            asked += run.recipe.score.judge_samples
            answered += len(row.grades)
            read += sum(grade is not None for grade in row.grades)
    return {"asked": asked, "read": read, "unreadable": answered - read, "unanswered": asked - answered}
