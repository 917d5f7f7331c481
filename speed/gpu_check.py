"""What runs on this machine's GPU, whether it is right, and how fast it is; scripts/gpu_check.sh starts it.

    python speed/gpu_check.py [--output FILE] [--only PART]

Each part (gpu_check_parts.py) is a process of its own, with a limit of time, so that one that breaks costs
nothing but its own lines. A model of random weights is made for it: a Llama of 0.9 billion on a GPU, of 4
million on a CPU. Prints a table, and writes it as JSON with the versions of all packages that matter.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout
from dice.launch import devices, packages  # noqa: F401  names a package that is missing

# isort: split
import gpu_check_parts

ROOT = Path(__file__).resolve().parents[1]
SECONDS, OF_ONE = 470, 150  # for all parts together, and the most for one
ERROR = re.compile(r"(?:\[rank0\]: )?([\w.]+(?:Error|Exception|BadInput)\b.*)")


def lines_of(part: str, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Run a part; what it found out, and why it ended before its end."""
    found, log = folder / f"{part}.jsonl".replace(" ", "-"), folder / "log"
    command = [sys.executable, str(ROOT / "speed" / "gpu_check_parts.py"), part, str(folder), str(found)]
    own = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    if here := devices.gpus():
        own["CUDA_VISIBLE_DEVICES"] = here[0]  # LLaMA-Factory trains on several under torchrun only
    end = {}
    with log.open("wb") as file:
        try:
            status = subprocess.run(command, stdout=file, stderr=file, env=own, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            kind = "failed" if seconds == OF_ONE else "skipped"  # then the 8 minutes are over
            status, end = 0, {kind: f"not done after {seconds:.0f} s"}
    if status:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
        errors = [error[1] for text in said if (error := ERROR.match(text))]
        end = {"failed": f"status {status}: {(errors or said)[-1][:300]}"}
    lines = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    return [{"part": part, **line} for line in [*lines, *([end] if end else [])]]


def with_shares(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each line that tells how many operations it made a second also tells their share of the matrix rate."""
    rates = {line["dtype"]: line["flops"] for line in lines if line["part"] == "matrix" and "flops" in line}
    for line in lines:
        if "flops" in line and line["part"] != "matrix" and line["dtype"] in rates:
            line["share"] = line["flops"] / rates[line["dtype"]]
    return lines


def shown(line: dict[str, Any]) -> str:
    """A line of the table."""
    if reason := line.get("skipped") or line.get("failed"):
        return f"{line['part']:<18}{'skipped' if 'skipped' in line else 'FAILED'}: {reason}"
    share = f", {line['share']:.1%} of the matrix rate" if "share" in line else ""
    return f"{line['part']:<18}{line['what']:<58}{line['value']:>12,.4g} {line['unit']}{share}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="gpu_check.json", help="where the JSON goes")
    parser.add_argument("--only", default="", help="the parts whose name holds this")
    given = parser.parse_args()
    begun, lines = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="dice-gpu-") as folder:
        for part in gpu_check_parts.PARTS:
            if part not in ("machine", "matrix") and given.only not in part:
                continue
            left = SECONDS - (time.monotonic() - begun)
            late = [{"part": part, "skipped": "no time was left"}]
            new = lines_of(part, Path(folder), min(left, OF_ONE)) if left > 5 else late
            lines += new
            for line in with_shares(lines)[len(lines) - len(new) :]:
                print(shown(line) if "versions" not in line else line["versions"]["device"], flush=True)
    seconds = time.monotonic() - begun
    Path(given.output).write_text(json.dumps({"seconds": round(seconds), "lines": lines}, indent=1) + "\n")
    failed = sum("failed" in line for line in lines)
    print(f"\n{len(lines)} lines, {failed} failed, {seconds:.0f} s; {given.output}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
