"""A round written by hand."""

import pytest
from fake_world import write_manifest

from dice.run import files
from dice.run.rows import Prompt, Response, Score, prompt_id
from dice.stages import generate, score


@pytest.fixture
def round_of(fake_run):
    """Writes a round: {prompt text: [(text, reward) or None per sample]}; returns its run."""

    def write(table, **settings):
        recipe = fake_run.recipe
        recipe.replay.gamma = settings.pop("gamma", 0.0)
        for key, value in settings.items():
            setattr(recipe.pair, key, value)
        folder = fake_run.round_dir(1)
        prompts, responses, scores = [], [], []
        for text, samples in table.items():
            messages = [{"role": "user", "content": text}]
            prompts.append(Prompt(prompt_id(messages), messages))
            for sample, cell in enumerate(samples):
                if cell is None:
                    continue
                response, reward = cell
                key = (prompts[-1].prompt_id, sample)
                responses.append(Response(*key, response, len(response), 1, "stop", 0))
                scores.append(Score(*key, "", len(response), 1, reward, 0.0, reward))
        files.write_rows(folder / "prompts.jsonl", prompts)
        files.write_rows(files.shard_path(folder / "responses", 0), responses)
        files.write_rows(files.shard_path(folder / "scores", 0), scores)
        dropped = {"prompts too long for the model": sum(not any(row) for row in table.values())}
        write_manifest(folder, "generate", dropped=dropped, recipe=generate.STAGE.settings(fake_run, 1))
        write_manifest(folder, "score", recipe=score.STAGE.settings(fake_run, 1))
        return fake_run

    return write
