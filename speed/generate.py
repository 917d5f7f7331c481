"""How close generation with vLLM comes to vLLM itself, on CPUs.

    python speed/generate.py

K samples of some prompts from a small random model, in three ways:

a) ours: `dice.stages.generate.Answering`, from messages to shards on the disk;
b) bare: token ids of all prompts in one call of `LLM.generate` with n = K, nothing done with the answers;
c) the plain pattern: K passes over the prompts with n = 1, in batches of 50, as before.

The requests (ids, seeds, limits, stop tokens) and the engine are the same. Stop tokens are a small share
of the vocabulary, so lengths vary widely. Each run begins with an empty prefix cache; starting up is not
counted. A machine's speed drifts, and others may use it, so the three take turns (TURNS), and the fastest
run of each counts.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
from figures import Figure, report

if TYPE_CHECKING:
    from dice.recipe.groups import Generate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "tiny"))  # the tiny world

PROMPTS, K, SHARD, BATCH = 64, 16, 32, 50
MAX_NEW_TOKENS, STOP_IDS = 64, range(256, 276)  # 20 of 512 tokens: some 20 tokens on average
TURNS = "c" + "abba" * 5 + "c"
WAYS = {"a": "ours", "b": "bare", "c": "the plain pattern"}


def make_model(folder: Path) -> None:
    """A Llama of 4 million random weights, with the tiny world's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import prepare

    prepare.make_base(folder, ["user", "assistant", "system", "\n\n", *map(question, range(PROMPTS))])
    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 256, 688, 5
    config.num_attention_heads = config.num_key_value_heads = 4
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def question(number: int) -> str:
    return f"Name {number % 7 + 2} animals, colours or tools, please, but leave out number {number}. " * 3


class Ways:
    """The same work in three ways; each returns the number of tokens that it sampled.

    Without `stop_ids` an answer ends where the template says.
    """

    def __init__(
        self,
        folder: Path,
        model: Path,
        template: str,
        questions: Iterable[str],
        options: "Generate",
        stop_ids: Sequence[int] = (),
    ) -> None:
        from vllm import LLM

        from dice.inference.load import load_chat, load_sampler
        from dice.inference.vllm import engine_arguments
        from dice.recipe.keys import Recipe
        from dice.run.rows import Prompt, prompt_id

        name = str(model)
        self.folder, self.recipe = folder, Recipe.model_construct(template=template, generate=options)
        self.chat = load_chat("vllm", name, self.recipe.encoding)
        ends = list(stop_ids or self.chat.stop_ids)
        self.sampler = load_sampler("vllm")(name, ends, options, "float32")
        self.llm = LLM(**engine_arguments(name, options, "float32") | {"skip_tokenizer_init": False})
        self.sampler.engine = self.llm.llm_engine
        turns = [[{"role": "user", "content": text}] for text in questions]
        self.prompts = [Prompt(prompt_id(messages), messages) for messages in turns]
        self.ids = [{"prompt_token_ids": self.chat.encode_prompt(messages)} for messages in turns]

    def ours(self) -> int:
        from dice.launch.progress import Counter
        from dice.run import files
        from dice.run.rows import Response
        from dice.stages.generate import Answering, Shard

        out = self.folder / "responses"
        files.remove(out)
        counter = Counter(self.folder / "progress" / "0.json")
        counter.expect(len(self.prompts))
        size = self.recipe.generate.shard_size
        starts = enumerate(range(0, len(self.prompts), size))
        shards = (Shard(files.shard_path(out, n), self.prompts[start : start + size]) for n, start in starts)
        Answering(self.recipe, 1, self.chat, self.sampler, counter).run(shards)
        rows = sum(len(list(files.read_rows(path, Response))) for path in files.shards(out))
        assert rows == len(self.prompts) * self.recipe.generate.samples, rows
        return counter.tokens

    def bare(self) -> int:
        samples = self.recipe.generate.samples
        return self._generate(self.ids, [self._params(n, 0, samples) for n in range(len(self.ids))])

    def plain(self) -> int:
        tokens = 0
        for sample in range(self.recipe.generate.samples):
            for start in range(0, len(self.ids), BATCH):
                numbers = range(start, min(start + BATCH, len(self.ids)))
                params = [self._params(n, sample, 1) for n in numbers]
                tokens += self._generate([self.ids[n] for n in numbers], params)
        return tokens

    def _params(self, number: int, sample: int, n: int) -> Any:
        from dice.inference.vllm import sampling_params
        from dice.recipe.seeds import seed_of

        seed = seed_of(self.recipe.seed, 1, self.prompts[number].prompt_id) + sample
        options = self.recipe.generate
        params = sampling_params(options, self.sampler.stop_ids, seed, options.max_new_tokens)
        params.n = n
        return params

    def _generate(self, ids: list, params: list) -> int:
        outputs = self.llm.generate(ids, params, use_tqdm=False)
        return sum(len(answer.token_ids) for output in outputs for answer in output.outputs)

    def run(self, way: str) -> tuple[float, int]:
        """Tokens per second, and how many tokens there were."""
        self.sampler.engine.reset_prefix_cache()
        begun = time.perf_counter()
        tokens = {"a": self.ours, "b": self.bare, "c": self.plain}[way]()
        return tokens / (time.perf_counter() - begun), tokens


def measure(ways: Ways, turns: str) -> tuple[dict[str, float], set[int]]:
    """Tokens per second of each way's fastest run, and the numbers of tokens that there were."""
    speeds, counts = {way: [] for way in sorted({*turns})}, set()
    for way in "ab":  # warm up
        ways.run(way)
    for way in turns:
        speed, tokens = ways.run(way)
        speeds[way].append(speed)
        counts.add(tokens)
    work = f"{len(ways.prompts)} prompts x {ways.recipe.generate.samples} samples"
    print(f"{work}, {max(counts):,} tokens, {os.cpu_count()} CPUs")
    best = {way: max(runs) for way, runs in speeds.items()}
    for way, runs in speeds.items():
        listed = ", ".join(f"{speed:,.0f}" for speed in runs)
        print(f"{way}) {WAYS[way]:<17} {best[way]:6,.0f} tokens/s (runs: {listed})")
    return best, counts


def main() -> int:
    from dice.recipe.groups import Generate

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    options = Generate(
        samples=K, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS, max_model_len=512, shard_size=SHARD
    )
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        make_model(model)
        ways = Ways(Path(name), model, "llama3-custom", map(question, range(PROMPTS)), options, STOP_IDS)
        best, counts = measure(ways, TURNS)
    figures = [
        Figure("speed of ours over bare", best["a"] / best["b"], at_least=0.95),
        Figure("speed of ours over the plain pattern", best["a"] / best["c"], at_least=1.5),
        Figure("different numbers of tokens", len(counts), at_most=1),
    ]
    return report(figures)


if __name__ == "__main__":
    sys.exit(main())
