"""Errors of others' code as text, whatever they do when asked for it: a plug-in's exception may do anything."""

from __future__ import annotations

import traceback

MOST = 4000  # characters of a message that are kept; the traceback's file has all of them


def name_of(error: BaseException) -> str:
    """The name of the error's type, also where its metaclass has another idea of it."""
    name: str = type.__dict__["__name__"].__get__(type(error))
    return valid(name)


def message_of(error: BaseException, most: int = MOST) -> str:
    """The error's message as valid Unicode, at most `most` characters of it; why there is none where it has no text.

    Example:
        >>> message_of(ValueError("a\\udcff")), message_of(ValueError("x" * 9), most=4)
        ('a\\\\udcff', 'xxxx... (9 characters)')
    """
    try:
        text = str.__str__(str(error))
    except BaseException as why:  # any, or the unit would have no row
        return f"its message can't be made text: {name_of(why)} in its __str__"
    return valid(shortened(text, most))


def first_line(error: BaseException) -> str:
    """The first line of the error's message, the name of its type where that is empty.

    Example:
        >>> first_line(ValueError("no\\nmore")), first_line(ValueError())
        ('no', 'ValueError')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


def shortened(text: str, most: int) -> str:
    """`text`, or its first `most` characters and how many it has."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, as valid Unicode; name and message where it can't be made."""
    try:
        return valid("".join(traceback.format_exception(error)))
    except BaseException:
        return f"{name_of(error)}: {message_of(error)}\n"


def valid(text: str) -> str:
    """`text` with lone surrogates, which no file can hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
