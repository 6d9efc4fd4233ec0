"""`raybench completion SHELL`: prints the completion of verbs, options, names and trial ids for bash, zsh or fish."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from raybench import registry
from raybench.cli.parser import Parser
from raybench.sweep.axes import Part, StrategyName
from raybench.sweep.reader import SHIPPED
from raybench.sweep.schema import method_names

SHELLS = {
    "bash": 'eval "$(raybench completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(raybench completion zsh)" in ~/.zshrc, after compinit',
    "fish": "raybench completion fish > ~/.config/fish/completions/raybench.fish",
}
# Finished cells have a folder each; reading rows would take longer than people wait for a completion.
TRIALS = "ls -d artifacts/* */artifacts/* */*/artifacts/* 2>/dev/null | sed 's|.*/||'"
WITH_TRIALS = ("show", "export")
MODEL, SWEEP = "MODEL", "SWEEP"  # placeholders of positional arguments


@dataclass(frozen=True)
class Taken:
    """What an option takes: the values that are known, and whether there may be several."""

    values: tuple[str, ...] = ()
    several: bool = False
    switch: bool = False


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument SHELL."""
    text = "; ".join(f"{name}: {how}" for name, how in SHELLS.items())
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SHELLS), help=text)


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    from raybench.cli.main import VERBS

    options = {verb: _actions(verb) for verb in VERBS}
    if args.shell == "fish":
        print(_fish(VERBS, options))
        return
    start = "autoload -Uz bashcompinit && bashcompinit\n" if args.shell == "zsh" else ""
    print(start + _bash(list(VERBS), options))


def _actions(verb: str) -> dict[str, Taken]:
    """Option -> what it takes; that of all positional arguments together under ''."""
    parser = Parser(prog=f"raybench {verb}")
    importlib.import_module(f"raybench.cli.{verb.replace('-', '_')}").arguments(parser)
    found, plain = {}, list[str]()
    for action in parser._actions:
        values = tuple(map(str, action.choices)) if action.choices else _names(verb, action)
        if not action.option_strings:
            plain += values
        for option in action.option_strings:
            found[option] = Taken(values, action.nargs in ("+", "*"), action.nargs == 0)
    return {**found, "": Taken(tuple(plain))}


def _names(verb: str, action: argparse.Action) -> tuple[str, ...]:
    """The names that an option takes, or a positional argument by its placeholder."""
    names = {*action.option_strings, *([] if action.option_strings else [str(action.metavar)])}
    if "--method" in names:
        return ("all", *(name for name in method_names() if "+" not in name))
    if "--dataset" in names or (verb, action.dest) == ("data", "name"):
        return tuple(registry.dataset.entries())
    if "--recipe" in names or verb == "recipes":
        return _stems("recipes/*.yaml")
    known: dict[str, tuple[str, ...]] = {
        "--model": tuple(registry.model.entries()), MODEL: tuple(registry.model.entries()),
        "--regularizer": tuple(registry.regularizer.entries()), "--strategy": get_args(StrategyName),
        "--prune": get_args(Part), "--device": ("cpu", "cuda"), SWEEP: _stems("*.yaml"),
    }  # fmt: skip
    return next((known[name] for name in names if name in known), ())


def _stems(pattern: str) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in SHIPPED.glob(pattern)))


def _bash(verbs: Sequence[str], options: Mapping[str, Mapping[str, Taken]]) -> str:
    cases = []
    for verb, actions in options.items():
        values = [
            f"      {option}) words={shlex.quote(' '.join(taken.values))};;"
            for option, taken in actions.items()
            if option and not taken.switch
        ]
        several = " ".join(option for option, taken in actions.items() if taken.several)
        trials = f" $({TRIALS})" if verb in WITH_TRIALS else ""
        plain = " ".join([*filter(None, actions), *actions[""].values])
        given = [f'    case " {several} " in *" $option "*) last=$option;; esac'] if several else []
        given += [f'    plain="{plain}{trials}"', "    case $last in", *values, "      *) words=$plain;;", "    esac;;"]
        cases.append("\n".join([f"  {verb})", *given]))
    return "\n".join(
        [
            "_raybench() {",
            '  local word="${COMP_WORDS[COMP_CWORD]}" last="${COMP_WORDS[COMP_CWORD-1]}" words="" plain="" option="" n',
            "  for (( n = COMP_CWORD - 1; n > 1; n-- )); do",
            '    case "${COMP_WORDS[n]}" in -*) option="${COMP_WORDS[n]}"; break;; esac',
            "  done",
            f'  if [ "$COMP_CWORD" -eq 1 ]; then words="{" ".join(verbs)} --help --version"; else',
            '  case "${COMP_WORDS[1]}" in',
            *cases,
            "  esac; fi",
            '  case "$word" in -*) words="${plain:-$words}";; esac',
            '  COMPREPLY=( $(compgen -W "$words" -- "$word") )',
            "}",
            "complete -o default -F _raybench raybench",
        ]
    )


def _fish(verbs: Mapping[str, str], options: Mapping[str, Mapping[str, Taken]]) -> str:
    lines = [
        "complete -c raybench -n __fish_use_subcommand -l help",
        "complete -c raybench -n __fish_use_subcommand -l version",
    ]
    for verb, summary in verbs.items():
        lines.append(f"complete -c raybench -n __fish_use_subcommand -f -a {verb} -d {shlex.quote(summary)}")
        seen = f"complete -c raybench -n '__fish_seen_subcommand_from {verb}'"
        for option, taken in options[verb].items():
            name = f" -l {option[2:]}" if option.startswith("--") else f" -s {option[1:]}" if option else ""
            words = f" -a {shlex.quote(' '.join(taken.values))}"
            if option and not taken.switch:
                lines.append(f"{seen}{name}{f' -x{words}' if taken.values else ' -r'}")
            elif option or taken.values:
                lines.append(f"{seen}{name}{words if taken.values else ''}")
        if verb in WITH_TRIALS:
            lines.append(f'{seen} -a "({TRIALS})"')
    return "\n".join(lines)
