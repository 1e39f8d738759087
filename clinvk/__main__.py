"""Lets `python -m clinvk` stand for the `clinvk` command."""

from clinvk.cli.main import main

if __name__ == "__main__":
    main()
