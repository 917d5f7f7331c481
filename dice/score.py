"""Stage 1.2: the implicit reward of every response, log pi - log pi_ref, in nats.

Responses that can't become part of a pair are dropped before they are scored, and counted by reason.
"""

import math
from collections import Counter as Tally
from dataclasses import asdict
from typing import Any

from dice import launch, store
from dice.console import Counter
from dice.engines import load_chat, load_scorer
from dice.errors import BadInput
from dice.recipe import Recipe
from dice.schema import Prompt, Response, Score
from dice.stage import Outcome, Stage, require
from dice.store import Run, open_run
from dice.worker import Worker


def unusable(response: Response, recipe: Recipe) -> str | None:
    """Why a response is not scored, as far as its text tells, or None."""
    if response.finish_reason == "length":
        return "cut off at the length limit"
    if response.n_chars < recipe.pair.min_chars:
        return f"under {recipe.pair.min_chars} characters"
    if response.n_chars > recipe.pair.max_chars:
        return f"over {recipe.pair.max_chars:,} characters"
    return None


def score_shard(
    responses: list[Response],
    prompts: dict[str, Prompt],
    recipe: Recipe,
    chat: Any,
    policy: Any,
    reference: Any,
    counter: Counter,
) -> list[Score]:
    """Scores of the usable ones among some responses, in their order."""
    kept, rows = [], []
    for response in responses:
        if unusable(response, recipe):
            continue
        encoded = chat.encode(prompts[response.prompt_id].messages, response.response)
        if sum(map(len, encoded)) <= recipe.score.cutoff_len:
            kept.append(response)
            rows.append(encoded)
    logps = zip(policy.logps(rows, counter.add), reference.logps(rows, counter.add), strict=True)
    counter.add(2 * (len(responses) - len(kept)))
    scores = []
    for response, (_, response_ids), (logp_policy, logp_ref) in zip(kept, rows, logps, strict=True):
        score = Score(
            prompt_id=response.prompt_id,
            sample=response.sample,
            n_chars=response.n_chars,
            n_tokens=len(response_ids),
            logp_policy=float(logp_policy),
            logp_ref=float(logp_ref),
            reward=float(logp_policy - logp_ref),
        )
        if not math.isfinite(score.reward):
            raise BadInput(
                f"prompt {score.prompt_id} sample {score.sample}: log-probs are {score.logp_policy} (policy) "
                f"and {score.logp_ref} (reference); they must be finite"
            )
        scores.append(score)
    return scores


def work(worker: Worker, run_dir: str, t: str) -> None:
    """A worker's shards of round t, those that exist already left alone."""
    run, t = open_run(run_dir), int(t)
    recipe, folder = run.recipe, run.round_dir(t)
    paths = worker.share(store.shards(folder / "responses"))
    todo = [path for path in paths if not (folder / "scores" / path.name).exists()]
    counter = worker.counter()
    counter.expect(2 * sum(map(store.count_rows, todo)))
    if not todo:
        return
    prompts = {prompt.prompt_id: prompt for prompt in store.read_rows(folder / "prompts.jsonl", Prompt)}
    engine = recipe.generate.engine
    chat = load_chat(engine, run.policy(t), recipe.template)
    policy, reference = (
        load_scorer(engine)(model, recipe.dtype, recipe.score.batch_tokens)
        for model in (run.policy(t), run.reference(t))
    )
    for path in todo:
        responses = list(store.read_rows(path, Response))
        scores = score_shard(responses, prompts, recipe, chat, policy, reference, counter)
        store.write_rows(folder / "scores" / path.name, scores)


def _inputs(run: Run, t: int) -> dict[str, str]:
    folder = run.round_dir(t)
    require(run, t, "generate")
    return {
        "responses": store.folder_digest(folder / "responses"),
        "policy": store.model_digest(run.policy(t)),
        "reference": store.model_digest(run.reference(t)),
    }


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe
    limits = {"min_chars": recipe.pair.min_chars, "max_chars": recipe.pair.max_chars}
    own = {"template": recipe.template, "dtype": recipe.dtype}
    return {**own, "score": asdict(recipe.score), "pair": limits}


def _run(run: Run, t: int) -> Outcome:
    folder = run.round_dir(t)
    launch.run_workers("score", folder, [str(run.path), str(t)], "log-probs")
    rows_in, dropped = 0, Tally()
    totals = {"reward": 0.0, "n_tokens": 0, "scored": 0}
    for path in store.shards(folder / "responses"):
        scores = {(s.prompt_id, s.sample): s for s in store.read_rows(folder / "scores" / path.name, Score)}
        for response in store.read_rows(path, Response):
            rows_in += 1
            if (response.prompt_id, response.sample) not in scores:
                over = f"over {run.recipe.score.cutoff_len:,} tokens with their prompt"
                dropped[unusable(response, run.recipe) or over] += 1
        totals["scored"] += len(scores)
        totals["reward"] += sum(score.reward for score in scores.values())
        totals["n_tokens"] += sum(score.n_tokens for score in scores.values())
    scored = totals["scored"]
    if not scored:
        raise BadInput(f"{folder}: no response can be scored ({dict(dropped)})")
    mean = totals["reward"] / scored
    return Outcome(
        rows_in=rows_in,
        rows_out=scored,
        summary=f"{scored:,} implicit rewards, {mean:+.2f} nats on average",
        dropped=dict(dropped),
        figures={"tokens": totals["n_tokens"], "mean_reward": mean},
    )


STAGE = Stage("score", _inputs, _settings, ("scores",), _run)
