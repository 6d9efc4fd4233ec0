"""Entry point `raybench VERB ...`: each verb is one file in this package, imported only when it is used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from pathlib import Path

from raybench.cli.parser import Parser
from raybench.cli.printable_output import printable_output
from raybench.errors import RaybenchError, handled_warnings, nearest, printable

GROUPS = {
    "sweeps": {
        "run": "run the missing cells of a sweep, on Ray or in this process",
        "plan": "show what a run would do, without running it",
        "validate": "check a sweep file and list all its mistakes",
        "schema": "print the JSON Schema of sweep files",
    },
    "one model": {
        "inspect": "list what of a model can be pruned, and what stays whole",
        "prune": "prune one model without a sweep file",
        "export": "write a pruned network as safetensors, ONNX or an exported program",
    },
    "results": {
        "watch": "show the progress of a run from its storage",
        "leaderboard": "rank the methods in a storage",
        "show": "print the full result of one cell",
        "query": "run an SQL query over results",
        "compare": "compare results with published figures: PruningBench and papers",
        "merge": "copy the results of other storages into one",
        "compact": "merge small result files into a few large ones",
        "gc": "list or remove what killed processes left in a storage",
    },
    "clusters": {
        "submit": "run a sweep as a job of a Ray cluster",
        "jobs": "list the sweeps submitted to a cluster",
        "status": "show the status of a submitted sweep",
        "logs": "print the output of a submitted sweep",
        "stop": "stop a submitted sweep",
    },
    "methods, models, data": {
        "methods": "list importance criteria and regularizers",
        "new-method": "write a template for your own criterion or regularizer",
        "models": "list models",
        "datasets": "list datasets",
        "recipes": "list training recipes, or print one as a start for your own",
        "data": "download and verify a dataset",
    },
    "this program": {
        "completion": "print the completion of verbs and options for bash, zsh or fish",
    },
}
INTERRUPTED = 130  # exit code after Ctrl-C, as shells use it
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
    try:
        return _run(verb, rest)
    except RaybenchError as error:
        print(printable(f"raybench {verb}: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"raybench {verb}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `raybench ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(verb: str, arguments: list[str]) -> int:
    """Import the verb, parse its arguments and run it; returns its exit code."""
    module = importlib.import_module(f"raybench.cli.{verb.replace('-', '_')}")
    summary = VERBS[verb]
    parser = Parser(prog=f"raybench {verb}", description=f"{summary[0].upper()}{summary[1:]}.")
    module.arguments(parser)
    parsed = parser.parse_args(arguments)
    if parsed.no_color:
        os.environ["NO_COLOR"] = "1"  # which rich and most libraries follow
    with _quiet(parsed.quiet), plain_warnings(), printable_output():
        return module.run(parsed) or 0


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Drop what the verb prints on standard error: progress, hints, warnings. Errors are printed after it."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        yield


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print raybench's own warnings as one line ``warning: ...`` on standard error, other libraries' as usual."""
    package = str(Path(__file__).parents[1])

    def printed(message: str, category: type[Warning], filename: str) -> bool:
        ours = filename.startswith(package) and issubclass(category, UserWarning)
        if ours:
            print(printable(f"warning: {message}"), file=sys.stderr)
        return ours

    with handled_warnings(printed):
        yield


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: raybench VERB ... (raybench VERB --help lists its options; raybench --version)"]
    for group, verbs in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {verb:<{width}}  {summary}" for verb, summary in verbs.items())]
    return "\n".join(lines)
