"""More readers that are fuzzed: chat templates of models, and what judges behind a server reply."""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import scripted_judge
from fuzz_input import TEXT, VALUES, Input, Read, reader
from fuzz_values import as_json, spoiled

from dice.models import own_template
from dice.rewards import openai_client
from dice.rewards.grades import grade_of
from dice.tools.benchmarks.arena_hard import ArenaHard
from dice.tools.benchmarks.mt_bench import MtBench
from dice.tools.benchmarks.style import markdown_counts

TURNS = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m.content }}{% endfor %}{{ bos_token }}"
PARTS = (
    "{{ 1 // 0 }}", "{{ 'x' * 10 ** 11 }}", "{% for a in range(99999) %}", "{% endfor %}",
    "{% if messages %}", "{% endif %}", "{{ raise_exception(messages) }}", "{{ messages[7].content }}",
    "{{ none + 1 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ '\\ud800' }}", "{{ messages | tojson }}",
)  # fmt: skip
SAID = (
    "Grade: ", "Score: ", "Rating: [[", "]]", "[[A>>B]]", "[[7.5]]", "grade(", "<think>", "</think>", "4",
    "/5", " ", "*", "\n", "²", "99",
)  # fmt: skip
WAITS = ("0", "²", "1e9", "-1", "Wed, 21 Oct 2015 07:28:00 GMT", "0" * 5000)


@reader("chat template of a model")
def chat_template(given: Input, folder: Path) -> tuple[str, Read]:
    from transformers.utils.chat_template_utils import render_jinja_template

    parts = [TEMPLATE, *given.rng.choices(PARTS, k=given.rng.randint(0, 4))]
    given.rng.shuffle(parts)
    template = "".join(parts)
    if given.chance(0.4):
        template = spoiled(given.rng, template.encode()).decode(errors="replace")

    def apply_chat_template(turns, **options) -> str:
        return render_jinja_template([turns], chat_template=template, bos_token="<s>")[0][0]

    def read() -> int:
        tokenizer = SimpleNamespace(apply_chat_template=apply_chat_template)
        with mock.patch.object(own_template, "SECONDS", 0.2):
            try:
                own_template.rendered(tokenizer, TURNS)
            except own_template.Unrendered:
                return 1
        return 0

    return repr(template), read


@reader("judge's reply")
def reply(given: Input, folder: Path) -> tuple[str, Read]:
    pieces = given.rng.choices(SAID, k=given.rng.randint(0, 8))
    text = given.rng.choice(["".join(pieces), "".join(pieces) * 2000, given.draw(TEXT)])
    body = as_json(given.rng, given.near({"choices": [{"message": {"content": text}}]}))
    body = given.rng.choice([b"[" * 99_999, spoiled(given.rng, body)]) if given.chance(0.25) else body
    status = given.rng.choice([200, 200, 200, 204, 302, 400, 404, 429, 503])
    after = as_json(given.rng, given.draw(VALUES)).decode("latin-1")
    after = "".join(filter(str.isprintable, after)) if given.chance(0.5) else given.rng.choice(WAITS)

    def read() -> int:
        found = []
        with (
            mock.patch.object(openai_client, "LONGEST_WAIT", 0.001),
            scripted_judge.serve(lambda request, n: (status, body, {"Retry-After": after[:40]})) as judge,
        ):
            server = openai_client.Server("m", judge.url, None, attempts=2, wait=0.001, concurrency=2)
            openai_client.ask_all(server, [TURNS], grade_of, lambda index, answer: found.append(answer))
        for answer in found:
            MtBench.read_verdict(answer.text)
            ArenaHard.read_verdict(answer.text)
            markdown_counts(answer.text)
        return sum(answer.value is None for answer in found)

    return f"{status} {body!r:.600} Retry-After: {after!r:.60}", read
