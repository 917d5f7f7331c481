"""The readers of what comes from outside: a cluster's environment, chat templates, judges, Parquet files."""

import datetime
import decimal
import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import httpx
import hypothesis.strategies as st
import pyarrow
import pyarrow.parquet
from fuzz_input import TEXT, Input, Read, nothing, reader
from fuzz_tally import Changed
from fuzz_values import as_json, spoiled

from dice.data.answers import read_answers, read_pairs
from dice.data.prompts_and_preferences import read_prompts
from dice.errors import BadInput
from dice.launch import devices, processes, worker
from dice.rewards import openai_client
from dice.rewards.grades import grade_of
from dice.rewards.openai_client import Server, ask_all
from dice.tools.benchmarks.arena_hard import ArenaHard
from dice.tools.benchmarks.mt_bench import MtBench

LAUNCHERS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_NAME", "TORCHELASTIC_RUN_ID",
    "PET_NNODES", "PET_NPROC_PER_NODE", "PET_RDZV_BACKEND", "PMI_RANK", "PMI_SIZE", "PMIX_RANK",
    "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS",
)  # fmt: skip
OTHERS = (
    "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_NODELIST", "SLURM_GPUS", "NODE_RANK",
    "MASTER_ADDR", "MASTER_PORT", "VLLM_PORT", "KUBERNETES_SERVICE_HOST", "KUBERNETES_PORT",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
)  # fmt: skip
USUAL = (
    "0",
    "1",
    "2",
    "-1",
    "",
    "tcp://10.0.0.1:80",
    "node[1-4]",
    "NoDevFiles",
    "0,1",
    "1,1",
    "GPU-a,0",
    "MIG-a/1/2",
)


@reader("environment of a cluster")
def cluster(given: Input, folder: Path) -> tuple[str, Read]:
    """On one node nothing that a cluster sets changes what is started; the GPUs are the user's choice."""
    text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
    values = st.sampled_from(USUAL) | text | st.integers(-3, 10**20).map(str)
    wanted = {name: given.draw(values) for name in (*LAUNCHERS, *OTHERS) if given.chance(0.4)}

    def read() -> int:
        before = dict(os.environ)
        os.environ.update(wanted)
        try:
            started = processes.environment()
            if told := {*LAUNCHERS, "MASTER_ADDR", "MASTER_PORT"} & started.keys():
                raise Changed(f"{told} are handed on")
            if not {"--nnodes=1", "--master_addr=127.0.0.1"} <= {*processes.torchrun(["x"], 1)}:
                raise Changed("it is not alone")
            names = devices.gpus()
            if len({*names}) != len(names) or devices.workers_per_node() != max(1, len(names)):
                raise Changed(f"{names} are taken for GPUs")
            os.environ.update(LOCAL_WORLD_SIZE="1")
            return nothing(worker._leave_torchrun(worker.Worker(0, 1, 0, folder)))
        finally:
            os.environ.clear()
            os.environ.update(before)

    return repr(wanted), read


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
STRANGE = (
    "{{ 1 / 0 }}", "{{ messages[9].content }}", "{{ raise_exception('no system prompts') }}",
    "{{ 'a' * 10**9 }}",
    "{% for a in range(10**9) %}{% endfor %}", "{% set x = x.y.z %}", "{{ 'x'|tojson|int }}",
    "{{ messages|length }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ strftime_now('%Y') }}", "{{ 2**99999999 }}",
    "{% bad",
)  # fmt: skip


@cache
def base() -> Path:
    """A model's folder with a tokenizer of bytes."""
    import tempfile

    import prepare

    folder = Path(tempfile.mkdtemp(prefix="dice-fuzz-tokenizer-"))
    prepare.make_base(folder, ["user", "assistant", "system", "\n\n"])
    return folder


@reader("chat template")
def chat_template(given: Input, folder: Path) -> tuple[str, Read]:
    """A model's own, as `start` and the doctor look at it."""
    from dice.models.chat_template import load_chat
    from dice.tools.doctor import texts

    at = given.rng.choice([place for place, mark in enumerate(TEMPLATE) if mark == "{"])
    text = TEMPLATE[:at] + given.rng.choice(STRANGE) + TEMPLATE[at:] if given.chance(0.6) else TEMPLATE
    for path in base().iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = text.encode()
    (folder / "chat_template.jinja").write_bytes(
        spoiled(given.rng, content) if given.chance(0.3) else content
    )

    def read() -> int:
        chat = load_chat(str(folder), "llama3-custom")
        turns = [[{"role": role, "content": "Hi"} for role in ("system", "user")]]
        case = SimpleNamespace(
            home=lambda role: str(folder),
            chat=chat,
            prompts=turns,
            pairs=[],
            recipe=SimpleNamespace(template="x"),
        )
        return nothing(texts.chat_template(case))

    return repr((folder / "chat_template.jinja").read_bytes()[:600]), read


REPLY = {"choices": [{"message": {"role": "assistant", "content": "Score: 4"}}], "usage": {"total_tokens": 9}}
READINGS = (grade_of, ArenaHard.read_verdict, MtBench.read_verdict)


@reader("judge's reply")
def judge_reply(given: Input, folder: Path) -> tuple[str, Read]:
    """What a server answers, and what is read of a text; every error is an answer that is counted."""
    pieces = [
        "Score: ",
        "Rating: [[",
        "]]",
        "[[A>>B]]",
        "<think>",
        "</think>",
        "4",
        "/5",
        " ",
        "*",
        "\n",
        "²",
        "99",
    ]
    text = "".join(given.rng.choices(pieces, k=given.rng.randint(0, 8))) * given.rng.choice([1, 1, 1, 2000])
    reply = REPLY | {"choices": [{"message": {"content": text if given.chance(0.7) else given.draw(TEXT)}}]}
    body = as_json(given.rng, given.near(reply))
    body = given.rng.choice([b"[" * 99_999, spoiled(given.rng, body)]) if given.chance(0.3) else body
    waits = ("0", "²", "٣", "1e9", "-1", "Wed, 21 Oct 2015 07:28:00 GMT", "0" * 5000)
    headers = {"retry-after": given.rng.choice(waits).encode(), "content-type": b"application/json"}
    status = given.rng.choice([200, 200, 200, 429, 500, 302, 404, 401])

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=body, headers=headers)

    def read() -> int:
        for reading in READINGS:
            reading(text)
        server = Server("m", "http://judge/v1", None, attempts=2, wait=0.0)
        answers, plain = [], httpx.AsyncClient
        httpx.AsyncClient = lambda **options: plain(transport=httpx.MockTransport(answer))
        longest, openai_client.LONGEST_WAIT = openai_client.LONGEST_WAIT, 0.0
        try:
            ask_all(
                server, [[{"role": "user", "content": "?"}]], grade_of, lambda _, found: answers.append(found)
            )
        finally:
            httpx.AsyncClient, openai_client.LONGEST_WAIT = plain, longest
        if len(answers) != 1:
            raise Changed("the question was not answered")
        return int(answers[0].value is None)

    return f"{status} {headers} {body!r:.300}", read


@reader("parquet")
def parquet(given: Input, folder: Path) -> tuple[str, Read]:
    """Columns of any type, in row groups of any size, some of them much larger than their file."""
    cells = [
        st.just("Say hi"), st.just("a" * 1_000_000), TEXT.filter(str.isprintable), st.none(),
        st.integers(0, 9), st.binary(max_size=9), st.just([{"role": "user", "content": "Hi"}]),
        st.just(datetime.datetime(2020, 1, 1)), st.just(decimal.Decimal("1.5")),
        st.just({"a": [1, {"b": None}]}),
    ]  # fmt: skip
    names = [
        "instruction",
        "prompt",
        "chosen",
        "rejected",
        "response",
        "responses",
        "messages",
        "system",
        "x",
    ]
    count = given.rng.choice([0, 1, 3, 200])
    columns = {name: [given.draw(given.rng.choice(cells))] * count for name in names if given.chance(0.6)}
    path = folder / "rows.parquet"
    try:
        table = pyarrow.table(columns)
        size = given.rng.choice([1, 100, 10_000])
        pyarrow.parquet.write_table(
            table, path, row_group_size=size, compression=given.rng.choice(["snappy", "none"])
        )
    except (pyarrow.ArrowException, TypeError, OverflowError):
        path.write_bytes(b"PAR1")
    if given.chance(0.3):
        path.write_bytes(spoiled(given.rng, path.read_bytes()))
    (folder / "dataset_info.json").write_bytes(as_json(given.rng, {"it": {"file_name": "rows.parquet"}}))

    def read() -> int:
        refused = []
        for look in (read_answers, read_pairs, lambda name, where: read_prompts(where, "it")):
            try:
                look(str(path), str(folder))
            except BadInput as error:
                refused.append(error)
        if len(refused) == 3:  # by every way to read it
            raise refused[0]
        return 0

    shown = {name: repr(cells[:1])[:40] for name, cells in columns.items()}
    return f"{path.stat().st_size} bytes, {count} rows of {shown}", read
