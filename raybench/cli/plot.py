"""`raybench plot RESULTS --kind KIND -o FILE`: draws results as SVG, PDF or PNG for a paper."""

from __future__ import annotations

import argparse
from pathlib import Path

from raybench.cli.quantities import speedup_or_average
from raybench.cli.results import add_results, open_store, write_file
from raybench.errors import UserError

KINDS = ("pareto", "ranks", "critical", "matrix", "curves", "widths")
ENDINGS = (".svg", ".pdf", ".png")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser)
    about = (
        "pareto: accuracy against what is gained; ranks: ranks with intervals; critical: mean ranks with the critical "
        "difference; matrix: all pairs; curves: fine-tuning of trials; widths: layers of a trial before and after"
    )
    parser.add_argument("--kind", choices=KINDS, required=True, help=about)
    text = f"file to write; its ending is the format: {', '.join(ENDINGS)}"
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=text)
    for name in ("model", "dataset", "strategy", "protocol"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"only this {name}")
    parser.add_argument(
        "--speedup", type=speedup_or_average, metavar="N|average", help="only this speed-up, or the average"
    )
    goals = ("speedup", "latency", "parameters")
    parser.add_argument("--against", choices=goals, default="speedup", help="pareto: what accuracy is drawn against")
    parser.add_argument("--trial", action="append", default=[], metavar="TRIAL_ID", help="curves, widths: a cell's id")
    text = "width: a column of a two-column page (3.3 in) or a page (6.9 in) (default: %(default)s)"
    parser.add_argument("--size", choices=("column", "page"), default="column", help=text)


def run(args: argparse.Namespace) -> int:
    """Draw the plot and write it."""
    ending = args.output.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"-o {args.output}: found the ending {ending!r}, expected one of {', '.join(ENDINGS)}")
    from raybench.reports.drawing.writers import encoded
    from raybench.reports.plots.choose import Wanted, plot

    names = ("kind", "model", "dataset", "strategy", "protocol", "speedup", "against", "size")
    wanted = Wanted(**{name: getattr(args, name) for name in names}, trials=tuple(args.trial))
    drawing = plot(open_store(args.results), wanted)
    write_file(args.output, encoded(drawing, ending))
    print(f"wrote {args.output}: {drawing.title}, {drawing.width:.0f} x {drawing.height:.0f} pt")
    return 0
