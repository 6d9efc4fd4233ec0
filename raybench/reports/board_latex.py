"""A leaderboard as LaTeX tables for a paper: booktabs, the best bold, methods tied with it underlined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raybench.errors import printable
from raybench.reports.board_text import PrintedColumn, board_columns, final_text, title_of
from raybench.reports.leaderboard import Board, Leaderboard, Ranked

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "Δ": r"$\Delta$", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def as_latex(leaderboard: Leaderboard) -> str:
    """One table for each board; the first line says which packages the document needs."""
    conditions = [f"% {_printable(line)}" for line in leaderboard.conditions]
    head = ["% \\usepackage{booktabs,textcomp} \\usepackage[T1]{fontenc}", *conditions]
    return "\n\n".join(["\n".join(head), *("\n".join(_table(board)) for board in leaderboard.boards)])


def escaped(text: str) -> str:
    """Text as LaTeX prints it: a name can't be a command.

    Example:
        >>> print(escaped("my_net & 50 %"))
        my\\_net \\& 50 \\%
    """
    return "".join(_SPECIAL.get(letter, letter) for letter in _printable(text))


def _printable(text: str) -> str:
    return printable("".join(letter if letter >= " " else " " for letter in text))


def _table(board: Board) -> Iterator[str]:
    shown = [column for column in board_columns(board) if _has_values(column, board.entries)]
    yield r"\begin{table}"
    yield rf"\caption{{{escaped(title_of(board))}. Bold: best; underlined: tied with it over seeds.}}"
    yield r"\centering\small"
    yield rf"\begin{{tabular}}{{{''.join('l' if column.left else 'r' for column in shown)}}}"
    yield r"\toprule"
    yield " & ".join(_heading(column) for column in shown) + r" \\"
    yield r"\midrule"
    for entry in board.entries:
        yield " & ".join(_cell(column, entry) for column in shown) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield r"\end{table}"


def _has_values(column: PrintedColumn, entries: Sequence[Ranked]) -> bool:
    return any(column.text(entry) != "-" for entry in entries)


def _heading(column: PrintedColumn) -> str:
    return escaped(f"{column.title} ({column.unit})" if column.unit else column.title)


def _cell(column: PrintedColumn, entry: Ranked) -> str:
    text = escaped(str(entry.rank) if column.title == "#" else column.text(entry))
    if column.text is not final_text:
        return text
    if entry.rank == 1:
        return rf"\textbf{{{text}}}"
    return rf"\underline{{{text}}}" if entry.rank_mark == 1 else text
