"""`raybench serve RESULTS`: serves the results as live pages, and queues sweeps that a form describes."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from raybench.cli.results import add_results
from raybench.errors import UserError
from raybench.progress.snapshot import is_there
from raybench.storage.local import LocalStorage
from raybench.storage.open import open_existing, open_storage

if TYPE_CHECKING:
    from raybench.serve.settings import Settings

TOKEN = "RAYBENCH_TOKEN"
LEAST_TOKEN = 16  # characters
PORT = 8765
MB = 10**6


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser)
    add = parser.add_argument
    text = "name or address to listen on; any but this machine's own needs a token (default: %(default)s)"
    add("--host", default="127.0.0.1", metavar="H", help=text)
    add("--port", type=int, default=PORT, metavar="N", help="port to listen on, 0 for any (default: %(default)s)")
    text = "run queued sweeps on this Ray cluster: auto, HOST:PORT, or its dashboard, http://HEAD:8265 (default: here)"
    add("--address", metavar="A", help=text)
    add("--read-only", action="store_true", help="show results only: nothing can be queued or uploaded")
    text = "folder of which the form may name weights, data and modules of your own; may be repeated (default: none)"
    add("--allow", action="append", default=[], type=Path, metavar="DIR", help=text)
    text = f"file with the token that browsers must present (default: ${TOKEN}, else a new one where one is needed)"
    add("--token-file", type=Path, metavar="FILE", help=text)
    text = "further name by which browsers reach this server, such as that of a proxy; may be repeated"
    add("--hostname", action="append", default=[], metavar="NAME", help=text)
    add("--max-upload", type=int, default=1000, metavar="MB", help="largest uploaded file (default: %(default)s MB)")
    text = "folder of queued sweeps, logs and uploads (default: serve/ in RESULTS, for a bucket raybench-serve/)"
    add("--work", type=Path, metavar="DIR", help=text)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    settings = settings_of(args)
    try:
        from raybench.serve.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("fastapi", "starlette", "uvicorn", "anyio", "multipart"):
            raise UserError(f"serve needs {error.name}: pip install 'raybench[serve]'") from error
        raise

    def ready(url: str) -> None:
        new = "" if is_there(open_storage(settings.storage)) else " (nothing is there yet)"
        print(f"serving {settings.storage}{new}\nopen {url}" + (f"?token={settings.token}" if settings.token else ""))
        if not settings.loopback:
            print(
                "hint: what is sent can be read on the way; put a proxy with TLS in front, or use ssh -L",
                file=sys.stderr,
            )
        sys.stdout.flush()

    serve(settings, args.port, ready)
    return 0


def settings_of(args: argparse.Namespace) -> Settings:
    """The options as settings; UserError for one that can't be used."""
    from raybench.serve.settings import Settings, is_loopback
    from raybench.serve.where import check_address

    check_address(args.address)
    storage = open_existing(args.results) if args.read_only else open_storage(args.results)
    local = storage.root if isinstance(storage, LocalStorage) else None
    token = _token(args.token_file)
    if token is None and not is_loopback(args.host):
        token = secrets.token_hex(16)
    for folder in args.allow:
        if not folder.is_dir():
            raise UserError(f"--allow {folder}: found no such folder")
    if args.max_upload < 1:
        raise UserError(f"--max-upload: found {args.max_upload}, expected at least 1 MB")
    if not 0 <= args.port < 65_536:
        raise UserError(f"--port: found {args.port}, expected 0 to 65535")
    return Settings(
        storage=storage.url,
        work=(args.work or (local / "serve" if local else Path("raybench-serve"))).absolute(),
        host=args.host,
        address=args.address,
        read_only=args.read_only,
        token=token,
        allowed=tuple(folder.resolve() for folder in args.allow),
        names=tuple(name.rstrip(".").lower() for name in args.hostname),
        max_upload=args.max_upload * MB,
    )


def _token(file: Path | None) -> str | None:
    """The token of the file or of the environment, which child processes don't inherit; None without one."""
    found = os.environ.pop(TOKEN, None)
    where = f"${TOKEN}"
    if file is not None:
        where = f"--token-file {file}"
        try:
            found = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    if found is not None and len(found) < LEAST_TOKEN:
        raise UserError(f"{where}: found {len(found)} characters, expected at least {LEAST_TOKEN}")
    return found
