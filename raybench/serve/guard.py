"""Checks every request before a page sees it: host, origin, token, CSRF token, size of the body; adds headers.

Against a page of a stranger in the same browser: it may not read answers (no CORS header is ever sent), not send
requests that change something (origin and CSRF token), and not reach the server under a name of its own (host).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raybench.serve.settings import LOOPBACK, Settings

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer browsers send the log-in form with the origin "null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
CSRF = "x-raybench-csrf"
COOKIE = "raybench"
OPEN = ("/login.html", "/login", "/report.css", "/serve.css", "/report.js", "/htmx.min.js", "/sse.min.js", "/serve.js")
READING = ("GET", "HEAD")
FORM_BYTES = 256 * 1024
WRONG_S = 0.5  # a wrong token is answered after this time


def csrf_token(settings: Settings) -> str:
    """What pages send back with every request that changes something."""
    return hmac.new(settings.secret, b"csrf", hashlib.sha256).hexdigest()


def session(settings: Settings) -> str:
    """The cookie of a browser that presented the token."""
    return hmac.new(settings.secret, b"session", hashlib.sha256).hexdigest()


def same(given: str | None, expected: str) -> bool:
    """Whether two secrets are equal, in a time that doesn't tell where they differ."""
    return hmac.compare_digest((given or "").encode(), expected.encode())


class Guard:
    """ASGI middleware with all checks; refused requests never reach the application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, then hand it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope)
        headed = _with_headers(send)
        if refused := await self._refusal(request):
            await refused(scope, receive, headed)
            return
        await self._app(scope, _limited(receive, self._most(request)), headed)

    async def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that is not served; None for one that is."""
        if not _known_host(request.headers.get("host", ""), self._settings):
            text = "This server isn't known by that name. Start it with --hostname NAME to allow it."
            return PlainTextResponse(text, 421)
        if request.method not in READING and (problem := self._cross_site(request)):
            return PlainTextResponse(problem, 403)
        if not self._known(request) and request.url.path not in OPEN:
            return await _unknown(request)
        if request.method not in READING and request.url.path != "/login":
            if self._settings.read_only:
                return PlainTextResponse("This server only shows results (--read-only).", 403)
            if not same(request.headers.get(CSRF), csrf_token(self._settings)):
                return PlainTextResponse("This page is from before the server was started: load it again.", 403)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._most(request):
            return PlainTextResponse(_too_large(self._most(request)), 413)
        return None

    def _cross_site(self, request: Request) -> str | None:
        """Why a request that changes something comes from another site; None where it doesn't."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
        foreign = origin is not None and not self._ours(origin, request.headers.get("host", ""))
        return "This request comes from another site." if foreign or site not in ("same-origin", "none") else None

    def _ours(self, origin: str, host: str) -> bool:
        """Whether an origin is this server: by the name of the request, or one that it was started with."""
        try:
            found = urlsplit(origin)
            return found.netloc == host or (found.hostname or "") in self._settings.names
        except ValueError:
            return False

    def _known(self, request: Request) -> bool:
        """Whether the request has the token, or no token is needed."""
        if self._settings.token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given, self._settings.token):
            return True
        return same(request.cookies.get(COOKIE), session(self._settings))

    def _most(self, request: Request) -> int:
        """Bytes that the body may have."""
        return FORM_BYTES + (self._settings.max_upload if request.url.path == "/upload" else 0)


async def _unknown(request: Request) -> Response:
    """The answer to a request without the token: the log-in page, which keeps a token of the address."""
    if request.method in READING and "text/html" in request.headers.get("accept", ""):
        token = request.query_params.get("token")
        return RedirectResponse("login.html" + (f"?{urlencode({'token': token})}" if token else ""), 303)
    if "authorization" in request.headers:
        await asyncio.sleep(WRONG_S)
    return PlainTextResponse("This server needs its token.", 401, {"www-authenticate": "Bearer"})


def _known_host(given: str, settings: Settings) -> bool:
    """Whether a Host header names this server: no name that a stranger's domain may have been bound to."""
    try:
        name = (urlsplit(f"//{given}").hostname or "").rstrip(".").lower()
    except ValueError:
        return False
    if name in settings.names:
        return True
    if settings.loopback:
        return name in (*LOOPBACK, settings.host.lower())
    if name in (*LOOPBACK, settings.host.lower(), socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(name)  # an address can't be bound anew as a name can
    except ValueError:
        return False
    return True


def _limited(receive: Receive, most: int) -> Receive:
    """`receive` that refuses a body of more than `most` bytes, whatever its header promised."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise HTTPException(413, _too_large(most))
        return message

    return limited


def _too_large(most: int) -> str:
    return f"Found more than expected: at most {most / 1e6:.3g} MB. --max-upload raises the limit of files."


def _with_headers(send: Send, headers: Mapping[str, str] = HEADERS) -> Send:
    """`send` that adds the security headers, and forbids caches to keep what says nothing about it."""

    async def headed(message: Any) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message["headers"]}
            wanted = {**headers, "cache-control": "no-store"}
            added = [(n.encode(), v.encode()) for n, v in wanted.items() if n.encode() not in own]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return headed
