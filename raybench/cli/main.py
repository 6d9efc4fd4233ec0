"""`raybench VERB ...`: parse, call one function, print. Each verb is one file here, imported only when typed."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raybench.errors import RaybenchError, nearest

GROUPS = {
    "a sweep": {
        "run": "run a sweep: every missing cell, on Ray (or --local)",
        "plan": "show what a run would do, in under a second",
        "validate": "check a sweep file",
        "schema": "print the JSON Schema of sweep files",
    },
    "one model": {
        "prune": "prune one model, from the command line alone",
        "export": "write a pruned network as safetensors, ONNX or an exported program",
    },
    "results": {
        "watch": "how far a sweep is, from anywhere that reaches its storage",
        "leaderboard": "rank the methods of a results folder",
        "show": "everything known of one cell",
        "query": "SQL over a results folder",
        "compare": "our figures beside those that PruningBench published",
        "merge": "copy the rows of other results folders into one",
        "compact": "merge small result files",
        "gc": "remove what killed processes left in a storage",
    },
    "a cluster": {
        "submit": "run a sweep as a job of a Ray cluster; twice is once",
        "jobs": "list the sweeps submitted to a cluster",
        "status": "how a submitted sweep is doing",
        "logs": "what a submitted sweep has printed",
        "stop": "end a submitted sweep",
    },
    "names": {
        "methods": "list importance criteria and regularizers",
        "new-method": "write a starting file for a criterion or regularizer of your own",
        "models": "list models",
        "datasets": "list datasets",
        "data": "fetch a dataset, checked",
    },
}
VERBS = {verb: summary for verbs in GROUPS.values() for verb, summary in verbs.items()}


def main(argv: list[str] | None = None) -> int:
    """Entry point of the `raybench` command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_usage())
        return 0
    if arguments[0] in {"-V", "--version"}:
        print(f"raybench {version('raybench')}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"raybench: unknown verb {verb!r}.{nearest(verb, VERBS)} See raybench --help", file=sys.stderr)
        return 2
    module = importlib.import_module(f"raybench.cli.{verb.replace('-', '_')}")
    parser = argparse.ArgumentParser(prog=f"raybench {verb}", description=VERBS[verb])
    module.arguments(parser)
    parsed = parser.parse_args(rest)
    try:
        with told_plainly():
            return module.run(parsed) or 0
    except RaybenchError as error:
        print(f"raybench {verb}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `raybench ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextmanager
def told_plainly() -> Iterator[None]:
    """Our own warnings as one line each, without the source line that raised them; others' as they are."""
    before, home = warnings.formatwarning, str(Path(__file__).parents[1])

    def formatted(message: Warning | str, category: type[Warning], filename: str, *where: Any) -> str:
        ours = filename.startswith(home) and issubclass(category, UserWarning)
        return f"warning: {message}\n" if ours else before(message, category, filename, *where)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: raybench VERB ... (raybench VERB --help tells its options; raybench --version)"]
    for group, verbs in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {verb:<{width}}  {summary}" for verb, summary in verbs.items())]
    return "\n".join(lines)
