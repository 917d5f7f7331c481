"""A few rows in both formats, and the files that hold them."""

import csv
import json
from pathlib import Path

ROWS = [
    {"q": 'Say "hi", please.\nTwice.', "more": "", "good": "hi, hi", "bad": "no", "sys": "Be kind."},
    {"q": "Naïve?", "more": "Be brief.", "good": "oui", "bad": "non", "sys": ""},
    {"q": "Third", "more": "", "good": "yes", "bad": "no", "sys": ""},
]
ALPACA = {"prompt": "q", "query": "more", "chosen": "good", "rejected": "bad", "system": "sys"}
PROMPTS = ['Say "hi", please.\nTwice.', "Naïve?\nBe brief.", "Third"]
CHAT = {
    "talk": [
        {"who": "sys", "what": "Be kind."},
        {"who": "me", "what": "Hi"},
        {"who": "it", "what": "Hello"},
        {"who": "me", "what": "More"},
    ],
    "good": {"who": "it", "what": "yes"},
    "bad": {"who": "it", "what": "no"},
}
TAGS = {
    "role_tag": "who",
    "content_tag": "what",
    "user_tag": "me",
    "assistant_tag": "it",
    "system_tag": "sys",
}
SHAREGPT = {
    "formatting": "sharegpt",
    "columns": {"messages": "talk", "chosen": "good", "rejected": "bad"},
    "tags": TAGS,
}


def write_rows(path: Path, rows: list[dict]) -> None:
    """Rows in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def register(folder: Path, entry: dict) -> str:
    """A dataset_dir with one preference set, `it`."""
    entry = {"ranking": True, "columns": ALPACA} | entry
    (folder / "dataset_info.json").write_text(json.dumps({"it": entry}))
    return str(folder)


def questions(pairs) -> list[str]:
    return [pair.messages[-1]["content"] for pair in pairs]
