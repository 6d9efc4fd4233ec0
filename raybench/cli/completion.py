"""`raybench completion SHELL`: prints the completion of verbs, options, names and trial ids for bash, zsh or fish."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Mapping, Sequence

from raybench import registry
from raybench.cli.parser import Parser
from raybench.sweep.schema import method_names

SHELLS = {
    "bash": 'eval "$(raybench completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(raybench completion zsh)" in ~/.zshrc, after compinit',
    "fish": "raybench completion fish > ~/.config/fish/completions/raybench.fish",
}
# Finished cells have a folder each; reading rows would take longer than people wait for a completion.
TRIALS = "ls -d artifacts/* */artifacts/* */*/artifacts/* 2>/dev/null | sed 's|.*/||'"
WITH_TRIALS = ("show", "export")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument SHELL."""
    parser.add_argument("shell", choices=tuple(SHELLS), help="; ".join(f"{n}: {how}" for n, how in SHELLS.items()))


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    from raybench.cli.main import VERBS

    options = {verb: _actions(verb) for verb in VERBS}
    if args.shell == "fish":
        print(_fish(VERBS, options))
        return
    start = "autoload -Uz bashcompinit && bashcompinit\n" if args.shell == "zsh" else ""
    print(start + _bash(list(VERBS), options))


def _actions(verb: str) -> dict[str, tuple[str, ...] | None]:
    """Option -> the values that it takes: () for any, None for a switch. The positional arguments' values under ''."""
    parser = Parser(prog=f"raybench {verb}")
    importlib.import_module(f"raybench.cli.{verb.replace('-', '_')}").arguments(parser)
    found: dict[str, tuple[str, ...] | None] = {"": ()}
    for action in parser._actions:
        values = tuple(map(str, action.choices)) if action.choices else _names(action.option_strings)
        if not action.option_strings:
            found[""] = (found[""] or ()) + values
        for option in action.option_strings:
            found[option] = None if action.nargs == 0 else values
    return found


def _names(options: Sequence[str]) -> tuple[str, ...]:
    """The registered names that an option takes."""
    known = {"--model": registry.model, "--dataset": registry.dataset, "--regularizer": registry.regularizer}
    if "--method" in options:
        return ("all", *(name for name in method_names() if "+" not in name))
    return next((tuple(known[option].entries()) for option in options if option in known), ())


def _bash(verbs: Sequence[str], options: Mapping[str, Mapping[str, tuple[str, ...] | None]]) -> str:
    cases = []
    for verb, actions in options.items():
        values = [
            f"      {option}) words={shlex.quote(' '.join(taken))};;"
            for option, taken in actions.items()
            if option and taken
        ]
        plain = " ".join([*(option for option in actions if option), *(actions[""] or ())])
        trials = f" $({TRIALS})" if verb in WITH_TRIALS else ""
        given = ["    case $last in", *values, f'      *) words="{plain}{trials}";;', "    esac;;"]
        cases.append("\n".join([f"  {verb})", *given]))
    return "\n".join(
        [
            "_raybench() {",
            '  local word="${COMP_WORDS[COMP_CWORD]}" last="${COMP_WORDS[COMP_CWORD-1]}" words=""',
            f'  if [ "$COMP_CWORD" -eq 1 ]; then words="{" ".join(verbs)} --help --version"; else',
            '  case "${COMP_WORDS[1]}" in',
            *cases,
            "  esac; fi",
            '  COMPREPLY=( $(compgen -W "$words" -- "$word") )',
            "}",
            "complete -o default -F _raybench raybench",
        ]
    )


def _fish(verbs: Mapping[str, str], options: Mapping[str, Mapping[str, tuple[str, ...] | None]]) -> str:
    lines = [
        "complete -c raybench -n __fish_use_subcommand -l help",
        "complete -c raybench -n __fish_use_subcommand -l version",
    ]
    for verb, summary in verbs.items():
        lines.append(f"complete -c raybench -n __fish_use_subcommand -f -a {verb} -d {shlex.quote(summary)}")
        seen = f"-n '__fish_seen_subcommand_from {verb}'"
        for option, values in options[verb].items():
            name = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}" if option else ""
            given = (
                f" -x -a {shlex.quote(' '.join(values))}"
                if values
                else ""
                if values is None
                else " -r"
                if option
                else ""
            )
            if name or values:
                lines.append(f"complete -c raybench {seen} {name}{given}".replace("  ", " "))
        if verb in WITH_TRIALS:
            lines.append(f'complete -c raybench {seen} -a "({TRIALS})"')
    return "\n".join(lines)
