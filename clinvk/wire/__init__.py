"""One file per dialect: bytes to a turn, events to frames."""
