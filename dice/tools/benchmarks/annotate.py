"""AlpacaEval 2's judging, by its own package: `PYTHON annotate.py SETTINGS.json`, a program of its own.

It imports alpaca_eval and nothing of DICE, so that the package may live in another environment
(ALPACA_EVAL_PYTHON). Judgments are cached in `cache`, metrics written to `metrics`. The judge's address and
key come from the environment, as the package wants it.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LARGEST = 16 << 20  # bytes of a reply of the judge


def main(settings: dict[str, Any]) -> None:
    """Annotate and measure; a judge that can't be asked is reported in `metrics`, by its kind of failure."""
    os.environ.pop("OPENAI_ORGANIZATION_IDS", None)  # of the package's: whose key would that be?
    import openai
    from alpaca_eval import annotators

    for name in ("httpx", "httpx2", "openai"):  # they would log the judge's address
        logging.getLogger(name).setLevel(logging.ERROR)
    answers, baseline = (
        json.loads(Path(settings[key]).read_text("utf-8")) for key in ("answers", "baseline")
    )
    forget_missing(Path(settings["cache"]))
    annotator = annotators.PairwiseAnnotator(
        annotators_config=_configuration(settings), caching_path=settings["cache"]
    )
    unanswered: list[str] = []
    hooks = {"response": [ending(settings["timeout"])]}
    for single in annotator.annotators.values():
        single.completions_kwargs["client_kwargs"]["http_client"] = openai.DefaultHttpxClient(
            event_hooks=hooks, headers={"Accept-Encoding": "identity"}
        )
        single.fn_completions = watched(single.fn_completions, unanswered)
    try:
        annotations = annotator.annotate_head2head(outputs_1=baseline, outputs_2=answers, chunksize=32)
        found = {**metrics(annotations, settings), "unanswered": len(unanswered)}
        rows = [{key: _plain(value) for key, value in row.items()} for row in annotations]
        Path(settings["annotations"]).write_text(json.dumps(rows, indent=1, default=str), "utf-8")
    except openai.OpenAIError as error:
        found = {"failure": type(error).__name__, "status": getattr(error, "status_code", None)}
    Path(settings["metrics"]).write_text(json.dumps(found), "utf-8")


def forget_missing(cache: Path) -> None:
    """Take out of the cache what has no verdict: the package keeps it as -1, and would not ask again."""
    if cache.is_file():
        rows = [row for row in json.loads(cache.read_text("utf-8")) if row["preference"] != -1]
        half = cache.with_suffix(".tmp")  # a kill in between must not cost what was paid for
        half.write_text(json.dumps(rows), "utf-8")
        half.replace(cache)


def watched(complete: Callable[..., Any], unanswered: list[str]) -> Callable[..., Any]:
    """The package's function that asks; prompts that it has given up on are noted.

    Its answer to these is an empty text without a message, which it later can't tell from an unreadable one.
    """

    def asking(prompts: list[str], **options: Any) -> dict[str, list[Any]]:
        found = complete(prompts=prompts, **options)
        choices = zip(prompts, found["completions_all"], strict=True)
        unanswered.extend(prompt for prompt, choice in choices if "message" not in choice)
        return found

    return asking


def ending(seconds: float) -> Callable[[Any], None]:
    """What ends a response that is not whole after so many seconds, or is no JSON that can be read.

    The client's own limit of time is for a read, and it has none of size: it would unpack a reply to the end.
    The package counts a timeout as a question without an answer, and so it is called one.
    """

    def limit(response: Any) -> None:
        library = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or openai's newer httpx2
        stream, end = response.stream, time.monotonic() + seconds

        class Limited(library.SyncByteStream):
            def __iter__(self) -> Iterator[bytes]:
                left = 0 if response.headers.get("content-encoding", "identity") != "identity" else LARGEST
                for part in stream:
                    left -= len(part)
                    if time.monotonic() > end:
                        raise library.ReadTimeout(f"no whole answer in {seconds:g} s")
                    if left < 0:
                        raise library.ReadTimeout(
                            f"an answer of more than {LARGEST:,} bytes, or a compressed one"
                        )
                    yield part

            def close(self) -> None:
                stream.close()

        response.stream = Limited()
        try:
            json.loads(response.read())
        except RecursionError:  # of very many brackets; what else is no JSON the client has words for
            raise library.ReadTimeout("an answer that is no chat completion") from None
        except ValueError:
            pass

    return limit


def _configuration(settings: dict[str, Any]) -> str:
    """The benchmark's own judge; or a copy of its configuration with another model or other options."""
    import yaml
    from alpaca_eval import constants

    name = constants.ANNOTATOR_CONFIG_AE2
    path = constants.EVALUATORS_CONFIG_DIR / name / "configs.yaml"
    (configuration,) = yaml.safe_load(path.read_text("utf-8")).values()
    template = constants.EVALUATORS_CONFIG_DIR / configuration["prompt_template"]
    configuration["prompt_template"] = str(template)
    options = settings["options"]
    own = ("max_tokens", "temperature", "top_p")  # where they are None the package leaves them out
    configuration["completions_kwargs"] |= {
        **{key: None for key in own if options.get(key, 0) is None},
        "model_name": settings["judge"],
        "num_procs": settings["concurrency"],
        "requires_chatml": True,  # chat completions, whatever the model is called
        "client_kwargs": {"max_retries": settings["retries"], "timeout": settings["timeout"]},
        "extra_body": {key: value for key, value in options.items() if value is not None},
    }
    folder = Path(settings["cache"]).parent / "annotator"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configs.yaml").write_text(yaml.safe_dump({name: configuration}), "utf-8")
    return str(folder)


def _plain(value: Any) -> Any:
    """JSON has no NaN, which stands for a judgment that could not be read."""
    return None if value != value else value


def metrics(annotations: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """The package's win rate and length-controlled one, 0 to 100, or `uncontrolled`, why it has none."""
    from alpaca_eval.metrics import winrate

    if all(_plain(row["preference"]) is None for row in annotations):
        return {"n_total": 0}
    found = winrate.get_winrate(annotations) | _length_controlled(annotations, settings)
    return {key: value if isinstance(value, str) else _plain(float(value)) for key, value in found.items()}


def _length_controlled(annotations: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """The setting `length_data` is a copy of df_gamed.csv, which the package would load from the Hub."""
    if settings["is_own"]:
        return {"uncontrolled": "the package knows AlpacaEval's questions only, by their position"}
    from alpaca_eval.metrics import glm_winrate

    if settings["length_data"]:
        glm_winrate.hf_hub_download = lambda **_: settings["length_data"]
    try:
        return glm_winrate.get_length_controlled_winrate(annotations, save_weights_dir=None)
    except OSError:  # the Hub can't be reached, and its cache does not have the file
        reason = (
            "df_gamed.csv of tatsu-lab/alpaca_eval can't be had from the Hub; give a copy by "
            "--length_data=FILE"
        )
    except Exception as error:  # whatever a fit to one question, or to a file of another kind, ends in
        first = f"{type(error).__name__}: {error}".splitlines()[0]
        reason = f"the package can't fit it to these answers ({first:.200})"
    return {"uncontrolled": reason}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text("utf-8")))
