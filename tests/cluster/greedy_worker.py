"""A trainable whose units take real memory until Ray's memory monitor kills their process. Pickled by value."""

import time
from pathlib import Path

from .fake_worker import FakeTrial

STEP = 64 << 20  # bytes
PATIENCE_S = 60.0


def available():
    """Bytes of this machine that are free."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10


class GreedyTrial(FakeTrial):
    """Parameter: `leave`, bytes that are still free when it takes no more."""

    def execute(self, unit):
        taken, leave = [], unit.trials[0].importance.params.get("leave")
        deadline = time.monotonic() + PATIENCE_S
        while leave is not None and time.monotonic() < deadline:  # others on the machine may free memory meanwhile
            if available() > leave:
                taken.append(bytearray(b"x") * STEP)
            time.sleep(0.02)
        return super().execute(unit)
