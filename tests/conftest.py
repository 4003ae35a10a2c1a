"""What all tests share: how thoroughly hypothesis looks.

The ordinary run is the same every time; B2FS_LONG=1 looks further, with new random examples.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_UNHURRIED = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "quick",
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=_UNHURRIED,
)
settings.register_profile("long", max_examples=2000, deadline=None, suppress_health_check=_UNHURRIED)
settings.load_profile("long" if os.environ.get("B2FS_LONG") == "1" else "quick")
