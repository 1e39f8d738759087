"""Child processes: the only package that starts, feeds and stops them."""
