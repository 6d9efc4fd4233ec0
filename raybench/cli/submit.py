"""`raybench submit SWEEP --address URL`: runs a sweep as a job of a Ray cluster; a second submit changes nothing."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from raybench.cli.job_arguments import add_address, address_option, wait_line
from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.errors import RaybenchError, UserError, counted
from raybench.plan.plan import plan
from raybench.storage.open import check_writable, open_existing, open_storage
from raybench.sweep.sweep import Sweep

if TYPE_CHECKING:
    from raybench.execution.jobs import Jobs


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_sweep(parser)
    add_address(parser)
    parser.add_argument(
        "--storage", metavar="URL", help="s3://..., gs://... or a folder that every node mounts (default: the sweep's)"
    )
    parser.add_argument(
        "--working-dir",
        type=Path,
        metavar="DIR",
        help="folder with your own modules, for models written module:function; sent with the job",
    )
    parser.add_argument(
        "--mounted",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="folder that every node mounts at the same path; its files are not sent",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="environment variable to set on the cluster, with its value here",
    )
    parser.add_argument("--no-retry-failed", action="store_true", help="don't try again cells that failed before")
    parser.add_argument(
        "--any-version",
        action="store_true",
        help="don't check that this machine and the cluster have the same versions",
    )
    parser.add_argument("--wait", action="store_true", help="print the job's output until it ends")


def run(args: argparse.Namespace) -> int:
    """Submit the sweep. Returns 0 when the job was accepted, with --wait when it succeeded."""
    from raybench.execution.attachments import check_data
    from raybench.execution.jobs import Jobs
    from raybench.execution.submission import VERSIONS, Submission, forwarded, shared_storage

    sweep = read_sweep(args)
    options = ["--no-retry-failed"] if args.no_retry_failed else []
    plugins = [Path(file) for file in args.plugin]
    storage = shared_storage(args.storage or sweep.storage)
    sent = Submission(sweep, storage, plugins, args.working_dir, options, args.mounted)
    check_data(sweep, Path(args.sweep), args.mounted)
    _check_storage(storage)
    if line := _nothing_left(sweep, storage):
        print(line)
        return 0
    env = forwarded(args.env)
    _hint_at_credentials(storage, env)
    jobs = Jobs(args.address, wait_line)
    if not args.any_version:
        env[VERSIONS] = json.dumps(_checked_versions(jobs))
    with tempfile.TemporaryDirectory(prefix="raybench-submit-") as folder:
        sent.stage(Path(folder))
        metadata = {"sweep": sweep.name, "storage": sent.storage}
        job, started = jobs.submit(sent.hash, sent.entrypoint, Path(folder), env, metadata)
    known = f"this sweep is {job.status.lower()} already: nothing was submitted"
    print(f"{job.id}: {'submitted' if started else known}")
    if not args.wait:
        print(f"follow it: raybench logs {job.id} --follow{address_option(args.address)}")
        print(f"progress:  raybench watch {shlex.quote(sent.storage)}")
        return 0
    return _followed(jobs, job.id)


def _checked_versions(jobs: Jobs) -> Mapping[str, str]:
    """The versions of this machine; UserError where the cluster has another Ray."""
    from raybench.execution.submission import client_versions, version_mismatch

    mine = client_versions()
    if mismatch := version_mismatch(mine, {"ray": jobs.ray_version}):
        raise UserError(mismatch)
    return mine


def _followed(jobs: Jobs, name: str) -> int:
    """Print the output of a job until it ends; 0 when it succeeded, else 1."""
    for text in jobs.follow(name):
        print(text, end="", flush=True)
    job = jobs.find(name)
    print(f"{job.id}: {job.status.lower()}")
    return 0 if job.status == "SUCCEEDED" else 1


def _nothing_left(sweep: Sweep, url: str) -> str | None:
    """What to say if every cell of the sweep is in the storage; None if some are missing, or this machine can't see."""
    try:
        planned = plan(sweep, open_existing(url))
    except (RaybenchError, OSError):
        return None
    if planned.units:
        return None
    return f"nothing to do: all {counted(len(planned.trials), 'cell')} are in {url}; raybench leaderboard shows them"


def _hint_at_credentials(url: str, env: Mapping[str, str]) -> None:
    """Say which variables of a bucket's credentials are set here and not sent."""
    prefixes = {"s3": "AWS_", "gs": "GOOGLE_"}
    prefix = prefixes.get(url.partition("://")[0])
    kept = [name for name in sorted(os.environ) if prefix and name.startswith(prefix) and name not in env]
    if kept:
        options = " ".join(f"--env {name}" for name in kept)
        print(
            f"hint: set here but not sent to the cluster: {', '.join(kept)}; to send them: {options}", file=sys.stderr
        )


def _check_storage(url: str) -> None:
    """UserError when the storage can't be written; only a warning when this machine's credentials are refused.

    A folder is not checked: it may be mounted on the nodes only.
    """
    if "://" not in url:
        return
    from raybench.storage.clients import Refused

    try:
        check_writable(open_storage(url))
    except Refused as error:
        print(f"warning: {error}. Submitted nevertheless, as the nodes may have other credentials", file=sys.stderr)
