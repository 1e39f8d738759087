"""How long to look: the same few examples in every run of the tests, many new ones by `make fuzz`.

`CLINVK_FUZZ` multiplies the examples; without it they are derived from the test alone.
"""

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("CLINVK_FUZZ", "0"))


def budget(examples: int) -> settings:
    """Settings of a property with that many examples in continuous integration."""
    return settings(
        max_examples=examples * max(1, TIMES),
        derandomize=not TIMES,
        database=None,
        deadline=None,
        print_blob=bool(TIMES),
        suppress_health_check=list(HealthCheck),
    )
