"""Data sets in, pairs out: dataset_info.json, readers of every format, what a round trains on."""
