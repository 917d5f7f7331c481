"""Write the token ids that our trainer would train on: python trainer_rows.py CONFIG.json ROWS.json

CONFIG is a training's configuration. ROWS is a list of pairs: token ids of chosen and of rejected, and where
each response begins.
"""

import json
import sys
from pathlib import Path

import pair_data
import train
from dice.models.chat_template import register_templates
from dice.models.reference_table import IGNORED


def main(config_path: str, rows_path: str) -> None:
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    config = json.loads(Path(config_path).read_text())
    encoding = train.take_encoding(config)
    train.take_reference(config)
    train.take_pack_tokens(config)
    register_templates()
    pair_data.encode_as_scored(encoding)
    model_args, data_args, training_args, *_ = get_train_args(config)
    tokens = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokens["tokenizer"], data_args)
    data = get_dataset(template, model_args, data_args, training_args, stage="rm", **tokens)["train_dataset"]
    rows = [
        [row[f"{side}_input_ids"], row[f"{side}_labels"].count(IGNORED)]
        for row in data
        for side in ("chosen", "rejected")
    ]
    Path(rows_path).write_text(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
