"""Freed memory stays with the process while it trains: the system hands it out once, not in each step."""

import os
import subprocess
import sys

SMALL_PAGES = dict(os.environ, NUMPY_MADVISE_HUGEPAGE="0")  # NumPy asks for large ones where it maps memory
PROGRAM = """
import resource
import numpy as np
from raybench.execution import heap

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(2**23)  # 64 MiB, more than glibc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

before, kept = faults(), heap.keep_freed()
after, held = faults(), resident()
heap.give_back()
print(before, kept, after, held - resident())
"""


def test_memory_is_handed_out_once_and_given_back_at_the_end():
    found = subprocess.run([sys.executable, "-c", PROGRAM], env=SMALL_PAGES, capture_output=True, text=True, check=True)
    before, kept, after, returned = found.stdout.split()
    assert kept == "True"
    assert int(after) < int(before) / 3  # touched once instead of four times
    assert int(returned) >= 60  # MiB
