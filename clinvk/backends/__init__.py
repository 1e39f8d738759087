"""One file per CLI: a turn in, events out."""
