"""The parser of every verb: options that all verbs have, and messages for mistyped options and values."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

from raybench.errors import nearest


class Parser(argparse.ArgumentParser):
    """Argparse's parser; a mistake is one line with the nearest valid name, without the whole usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--quiet", action="store_true", help="print results alone: no progress, hints or warnings")
        text = "print every epoch, warnings of libraries, and the traceback of an error"
        self.add_argument("--verbose", action="store_true", help=text)
        self.add_argument("--no-color", action="store_true", help="print without colours, as NO_COLOR=1 does")

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add an argument, and beside a ``--format`` that has json its short form ``--json``."""
        action: argparse.Action = super().add_argument(*names, **options)
        if "--format" in names and "json" in (action.choices or ()):
            about = "short for --format json"
            super().add_argument("--json", dest="format", action="store_const", const="json", help=about)
        return action

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The parsed arguments; an unknown option is named with the nearest one."""
        self._given = [_at_home(one) for one in (sys.argv[1:] if args is None else args)]
        found, rest = self.parse_known_args(self._given, namespace)
        if rest:
            option = next((one for one in rest if one.startswith("-")), rest[0])
            self.error(f"unknown {'option' if option.startswith('-') else 'argument'} {option!r}.{self._near(option)}")
        return found

    def format_help(self) -> str:
        """The help; argparse never breaks a choice between options, so one too wide for the terminal is broken here."""
        width = shutil.get_terminal_size().columns - 2  # argparse's own
        return "\n".join(_broken(line, width) for line in super().format_help().split("\n"))

    def error(self, message: str) -> NoReturn:
        """Print `message` on standard error and end with code 2. A mistyped option comes before a missing one."""
        known = [name for action in self._actions for name in action.option_strings]
        typed = (one.partition("=")[0] for one in getattr(self, "_given", []) if re.match("--[a-z]", one))
        strange = next((one for one in typed if not any(name.startswith(one) for name in known)), None)
        if message.startswith(("the following arguments are required", "one of the arguments")) and strange:
            message = f"unknown option {strange!r}.{self._near(strange)}"
        shown = re.sub(r"^argument ([^:]+): ", lambda found: f"{found[1].split('/')[-1]}: ", message)
        shown = re.sub(r"invalid choice: ('[^']*') \(choose from (.*)\)", self._choice, shown)
        shown = re.sub(r"invalid (int|float) value: (.*)", _number, shown)
        end = "" if shown.endswith((".", "?")) else "."
        print(f"{self.prog}: {shown}{end} See {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)

    def _choice(self, found: re.Match[str]) -> str:
        known = [name.strip(" '\"") for name in found[2].split(",")]
        return f"found {found[1]}, expected {', '.join(known)}.{nearest(found[1].strip(chr(39)), known)}"

    def _near(self, option: str) -> str:
        return nearest(option.partition("=")[0], [name for action in self._actions for name in action.option_strings])


def _at_home(argument: str) -> str:
    """An argument with the ``~/`` at its start replaced, which shells leave in quotes and after ``--storage=``.

    A path that exists as it is written is left alone.
    """
    option = found[0] if (found := re.match("--[a-z-]+=", argument)) else ""
    path = argument.removeprefix(option)
    if not path.startswith("~/") or Path(path).exists():
        return argument
    return option + os.path.expanduser(path)


def _broken(line: str, width: int) -> str:
    """A usage line in lines of at most `width` characters: `(--one X |` and `--two X)`."""
    bar = line.rfind(" | ", 0, width)
    if len(line) <= width or bar < 0:
        return line
    text = line.lstrip()
    indent = len(line) - len(text) + text.startswith(("(", "["))
    return f"{line[:bar]} |\n{_broken(' ' * indent + line[bar + 3 :], width)}"


def _number(found: re.Match[str]) -> str:
    return f"found {found[2]}, expected {'a whole number' if found[1] == 'int' else 'a number'}"
