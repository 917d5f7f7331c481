"""More readers that are fuzzed: a cluster's environment, and Parquet files."""

import datetime
import decimal
import os
from pathlib import Path

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
