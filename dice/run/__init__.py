"""A run on disk: its files and rows, and what is done, damaged or still to do."""
