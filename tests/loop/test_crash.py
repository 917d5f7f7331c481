"""A few of the kills that `python tests/crash.py` makes by the hundred; and that it would notice."""

import json
import signal
import sys
from dataclasses import replace

import pytest
from crash import STAGES, Tally, bars, report, torment
from killing import WAYS, Change, Kill, Loop, plan
from outcome import TIMES, files_of, first_difference, rows_of
from reported import write_manifest, write_round

from dice.run import files
from dice.tools.report import write_report

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="killed processes are looked for in /proc")

CHANGES = [Change(10 * n + m, stage, f"{stage}: {m}") for n, stage in enumerate("abc") for m in range(7)]


def test_every_chain_strikes_every_stage_and_in_the_end_every_change():
    chains = [plan(CHANGES, number, seed=3, every=2) for number in range(44)]
    assert all([kill.stage for kill in chain] == list("aabbcc") for chain in chains)
    struck = {kill.at for chain in chains for kill in chain if kill.when == "before"}
    assert struck == {change.name for change in CHANGES}
    assert {(k.when, k.number, k.whom) for chain in chains for k in chain} == {*WAYS}
    assert chains[5] == plan(CHANGES, 5, seed=3, every=2) != plan(CHANGES, 5, seed=4, every=2)


def test_what_is_wrong_is_noticed_and_told(fake_run, capsys):
    """A row too many, one too few, another byte: counted, and shown with its place."""
    shard = fake_run.round_dir(1) / "responses" / "part-00000.jsonl"
    rows = [{"prompt_id": "p", "sample": n} for n in range(3)]
    files.write_text(shard, "".join(json.dumps(row) + "\n" for row in rows))
    before, counted = files_of(fake_run.path), rows_of(fake_run.path)
    assert counted.total() == 3
    files.write_text(shard, "".join(json.dumps(rows[n]) + "\n" for n in (0, 0, 2)))
    after = rows_of(fake_run.path)
    assert (counted - after).total() == (after - counted).total() == 1
    said = first_difference(shard.read_bytes(), before[f"round-1/responses/{shard.name}"])
    assert said.startswith("line 2, byte ") and "instead of" in said

    kill = Kill("start", "pair 1: os.rename x (1)", "before", signal.SIGKILL, "group")
    kills = [replace(kill, stage=stage) for stage in STAGES]
    assert report({"fake": Tally(kills)})
    assert not report({"fake": Tally(kills[:-1])})  # a stage was spared
    for wrong in ("differing", "half_written", "failures", "lost", "doubled"):
        assert not report({"fake": Tally(kills, **{wrong: 1})})
    assert "SIGKILL to the group" in capsys.readouterr().out


def test_a_file_that_is_not_as_it_should_be_is_seen(tmp_path):
    loop = Loop(tmp_path, [])
    files.write_text(loop.run / "round-1" / "pairs.jsonl", "half a ro")
    assert loop.check_files({"round-1/pairs.jsonl": b"half a row\n", "round-1/alpha.jsonl": b""}) == [
        "round-1/pairs.jsonl"
    ]


@pytest.mark.slow
def test_of_reports_all_but_times_is_compared(fake_run):
    """The second training went on from an attempt that was ended; the third one dropped a pair."""
    write_round(fake_run)
    found = []
    for rows, times in ((5, {"seconds": 12.0}), (5, {"seconds": 99.0, "resumed": True}), (4, {})):
        write_manifest(fake_run, 1, "train", 5, rows, {}, **times)
        write_report(fake_run, quick=True)
        found.append((fake_run.path / "report.html").read_bytes())
    assert len({*found}) == 3
    first, second, third = (TIMES.sub(b"", page) for page in found)
    assert first == second != third


@pytest.mark.slow
def test_kills_of_the_fake_engine(tmp_path):
    assert report({"fake": torment("fake", kills=10, folder=tmp_path, progress=bars(), seed=11)})


@pytest.mark.slow
def test_kills_of_real_engines(tmp_path):
    """Sampling, scoring and training with checkpoints."""
    assert report({"hf": torment("hf", kills=10, folder=tmp_path, progress=bars(), seed=11)})
