"""What a round of a recipe has to do, in rows and tokens: counted where the data is here, else assumed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from dice.data import dataset_info
from dice.data.prompts_and_preferences import read_preferences, read_prompts
from dice.errors import counted
from dice.models.checkpoint import downloaded, tokenizer_home
from dice.pairing import replay
from dice.recipe.keys import Recipe
from dice.recipe.paths import resolve
from dice.run.rows import Preference

SAMPLED = 200  # rows whose tokens are counted
CHARS_PER_TOKEN = 4.0  # of English under the usual vocabularies, where there is no tokenizer to ask
PROMPTS, PROMPT_TOKENS, RESPONSE_TOKENS = 10_000, 150, 350  # where there is no data to look at
GUESSED = "the data set is not here yet, and no max_steps tells"  # how a mere guess of prompts ends
DEFAULT_EPOCHS = 3.0  # the trainer's, where the training file doesn't say


@dataclass(frozen=True)
class Workload:
    """One round. Tokens are means per row."""

    prompts: int
    samples: int
    prompt_tokens: float
    response_tokens: float
    longest_prompt: int  # tokens
    chars_per_token: float  # of responses
    generated: int  # pairs of the mixture that are generated
    offline: int  # ... and replayed ones
    held_out: int  # pairs of the mixture that validate
    steps: int  # of the optimizer
    batch: int  # pairs per step
    assumptions: list[str] = field(default_factory=list)

    @property
    def responses(self) -> int:
        return self.prompts * self.samples

    @property
    def train_pairs(self) -> int:
        return self.generated + self.offline - self.held_out

    @property
    def epochs(self) -> float:
        return self.steps * self.batch / self.train_pairs if self.train_pairs > 0 else math.inf


def workload(recipe: Recipe, t: int = 1) -> Workload:
    """The work of round t. Raises BadInput where a data set that is here can't be read."""
    prompts = rows_here(recipe, read_prompts, recipe.prompt_set(t))
    offline = recipe.replay.dataset if recipe.replay.gamma > 0 else None
    pairs = rows_here(recipe, read_preferences, offline)
    assumptions = []
    told = recipe.prompts_per_round or len(prompts) or _count_of_recipe(recipe)
    count = told or PROMPTS
    if not prompts:
        why = "the data set is not here yet" if told else GUESSED
        assumptions.append(f"{counted(count, 'prompt')}: {why}")
    replayable = len({pair.prompt_id for pair in pairs}) or count
    generated, replayed = replay.mixture_sizes(
        replayable, count * recipe.pair.per_prompt, recipe.replay.gamma
    )
    if prompts and not _tokenizer_file(recipe.policy):
        assumptions.append(f"{CHARS_PER_TOKEN:g} characters a token")
    prompt_tokens, longest = PROMPT_TOKENS, PROMPT_TOKENS * 4
    if prompts:
        per_token = _chars_per_token(recipe, [prompt.messages[-1]["content"] for prompt in prompts])
        lengths = [sum(len(turn["content"]) for turn in prompt.messages) / per_token for prompt in prompts]
        prompt_tokens, longest = fmean(lengths), math.ceil(max(lengths))
    per_token = _chars_per_token(recipe, [text for pair in pairs for text in (pair.chosen, pair.rejected)])
    response_tokens, how = _response_tokens(recipe, pairs, per_token)
    held_out = _held_out(recipe, generated + replayed)
    return Workload(
        prompts=count,
        samples=recipe.generate.samples,
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        longest_prompt=longest,
        chars_per_token=per_token,
        generated=generated,
        offline=replayed,
        held_out=held_out,
        steps=_steps(recipe, generated + replayed - held_out),
        batch=recipe.train.global_batch_size,
        assumptions=[*assumptions, how],
    )


def rows_here(recipe: Recipe, read: Callable[[Path, str], tuple[list, Any]], name: str | None) -> list:
    """The rows of a data set, read by `read`; none where the set is not here, or there is no name.

    Raises BadInput where it can't be read, or isn't registered.
    """
    return read(recipe.dataset_dir, name)[0] if name and _is_here(recipe, name) else []


def _is_here(recipe: Recipe, name: str) -> bool:
    """Whether a data set can be read without the network. Raises BadInput where it isn't registered."""
    source = dataset_info.find_entry(recipe.dataset_dir, name)
    return source.is_local and (source.hub is not None or source.file.exists())


def _count_of_recipe(recipe: Recipe) -> int | None:
    """As many prompts as the recipe's steps and its validation use up; None where it has no max_steps."""
    steps, held_out = recipe.train.args.get("max_steps") or -1, recipe.train.args.get("val_size") or 0
    if steps > 0:
        return steps * recipe.train.global_batch_size + (int(held_out) if held_out >= 1 else 0)
    return None


def _chars_per_token(recipe: Recipe, texts: Sequence[str]) -> float:
    """Of some of the texts under the policy's tokenizer; assumed where that or they are not here."""
    tokenizer, sample = _tokenizer_file(recipe.policy), texts[:SAMPLED]
    if not (tokenizer and sample):
        return CHARS_PER_TOKEN
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(tokenizer)).encode_batch(sample, add_special_tokens=False)
    return max(1, sum(map(len, sample))) / max(1, sum(len(one.ids) for one in encoded))


def _tokenizer_file(name: str) -> Path | None:
    folder = resolve(name) if resolve(name).is_dir() else downloaded(name)
    file = Path(tokenizer_home(str(folder))) / "tokenizer.json" if folder else None
    return file if file and file.is_file() else None


def _response_tokens(recipe: Recipe, pairs: Sequence[Preference], per_token: float) -> tuple[float, str]:
    """Mean tokens of a response, and where that is from."""
    limit = recipe.generate.max_new_tokens
    if not pairs:
        assumed = min(limit, RESPONSE_TOKENS)
        return assumed, f"{assumed:,} tokens a response"
    mean = fmean((len(pair.chosen) + len(pair.rejected)) / 2 for pair in pairs) / per_token + 1
    assumed = min(limit, mean)
    return assumed, f"{assumed:,.0f} tokens a response, as in {recipe.replay.dataset}"


def _held_out(recipe: Recipe, pairs: int) -> int:
    """LLaMA-Factory's val_size: a number of pairs, or a share below 1."""
    size = recipe.train.args.get("val_size") or 0
    return int(size) if size >= 1 else math.ceil(size * pairs)


def _steps(recipe: Recipe, pairs: int) -> int:
    args = recipe.train.args
    if (steps := args.get("max_steps") or -1) > 0:
        return steps
    epochs = float(args.get("num_train_epochs") or DEFAULT_EPOCHS)
    return math.ceil(max(0, pairs) / recipe.train.global_batch_size * epochs)
