"""`raybench submit SWEEP --address URL`: run a sweep as a job of a Ray cluster. Submitting it twice runs it once."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from raybench.cli.job_arguments import add_address
from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.errors import UserError
from raybench.storage.open import check_writable, open_storage


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_sweep(parser)
    add_address(parser)
    parser.add_argument(
        "--storage", metavar="URL", help="s3://, gs:// or a folder that every node mounts (default: the sweep's own)"
    )
    parser.add_argument("--working-dir", type=Path, metavar="DIR", help="your own modules, for models module:function")
    parser.add_argument(
        "--mounted",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="every node has DIR; its files stay there",
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="also set NAME there as it is here")
    parser.add_argument("--no-retry-failed", action="store_true", help="leave failed cells as they are")
    parser.add_argument("--any-version", action="store_true", help="don't compare versions here and on the cluster")
    parser.add_argument("--wait", action="store_true", help="follow the job's output until it ends")


def run(args: argparse.Namespace) -> int:
    """Submit; 0 when it was accepted, with --wait when it succeeded."""
    from raybench.execution.jobs import Jobs
    from raybench.execution.luggage import check_data
    from raybench.execution.submission import (
        VERSIONS,
        Submission,
        client_versions,
        forwarded,
        shared_storage,
        version_mismatch,
    )

    sweep = read_sweep(args)
    options = ["--no-retry-failed"] if args.no_retry_failed else []
    plugins = [Path(file) for file in args.plugin]
    storage = shared_storage(args.storage or sweep.storage)
    sent = Submission(sweep, storage, plugins, args.working_dir, options, args.mounted)
    check_data(sweep, Path(args.sweep), args.mounted)
    _check_storage(storage)
    env = forwarded(args.env)
    jobs = Jobs(args.address)
    if not args.any_version:
        mine = client_versions()
        if mismatch := version_mismatch(mine, {"ray": jobs.ray_version}):
            raise UserError(mismatch)
        env[VERSIONS] = json.dumps(mine)
    with tempfile.TemporaryDirectory(prefix="raybench-submit-") as folder:
        sent.stage(Path(folder))
        told = {"sweep": sweep.name, "storage": sent.storage}
        job, started = jobs.submit(sent.hash, sent.entrypoint, Path(folder), env, told)
    print(f"{job.id}: {'submitted' if started else f'already {job.status}, nothing was submitted'}")
    if not args.wait:
        print(f"follow it: raybench logs {job.id} --follow --address {args.address}")
        return 0
    for text in jobs.follow(job.id):
        print(text, end="", flush=True)
    job = jobs.find(job.id)
    print(f"{job.id}: {job.status}")
    return 0 if job.status == "SUCCEEDED" else 1


def _check_storage(url: str) -> None:
    """UserError where nothing can be stored; a warning where it may be only this machine that may not write.

    A plain folder isn't looked at: it may be mounted on the nodes alone.
    """
    if "://" not in url:
        return
    from raybench.storage.clients import Refused

    try:
        check_writable(open_storage(url))
    except Refused as error:
        print(f"warning: {error}. Submitted all the same: the nodes' credentials may be others", file=sys.stderr)
