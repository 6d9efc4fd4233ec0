"""Counts the tensors in a file without running its code; the program of a process with limits."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from raybench.errors import UserError

CPU_S = 100
MEMORY_TIMES, MEMORY_LEAST = 6, 4 * 2**30  # of the file's size; torch alone reserves some


def main(file: Path) -> int:
    """Print the number of tensors, or why there are none, as JSON."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    from raybench.models.tensors import read_tensors  # torch reserves its memory before there is a limit

    limit = max(MEMORY_LEAST, MEMORY_TIMES * file.stat().st_size) + _reserved()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        print(json.dumps({"tensors": len(read_tensors(file))}))
    except (UserError, MemoryError, RecursionError) as error:
        print(json.dumps({"error": str(error) or f"{file}: too large to be read here ({type(error).__name__})"}))
    return 0


def _reserved() -> int:
    """Bytes of address space that this process has; 0 where the system doesn't say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
