"""Notes how a program was started, and becomes it.

python -m benchmarks.record FILE PROGRAM ARGUMENT …
"""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    file, *argv = sys.argv[1:]
    with Path(file).open("a") as notes:
        started = {"argv": argv, "env": dict(os.environ), "cwd": str(Path.cwd())}
        notes.write(json.dumps(started) + "\n")
    os.execv(argv[0], argv)
