"""What is in the files of a round."""

import json


def pairs_of(run):
    lines = (run.round_dir(1) / "pairs.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
