"""The log-in page of servers with a token: the right one becomes a cookie."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from raybench.serve.guard import COOKIE, WRONG_S, same, session
from raybench.serve.parts import Parts

DAYS = 7


def add_login(app: FastAPI, parts: Parts) -> None:
    """Add the page, and what it sends to."""

    @app.get("/login.html")
    async def page(token: str = "") -> Response:
        return await entered(token) if token else _form(parts, "")

    @app.post("/login")
    async def login(request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=5)
        return await entered(str(form.get("token", "")).strip())

    async def entered(token: str) -> Response:
        expected = parts.settings.token
        if expected is not None and not same(token, expected):
            await asyncio.sleep(WRONG_S)
            return _form(parts, "That is not the token that this server expects.", 401)
        answer = RedirectResponse("index.html", 303)
        answer.set_cookie(COOKIE, session(parts.settings), max_age=DAYS * 86_400, httponly=True, samesite="strict")
        return answer


def _form(parts: Parts, problem: str, status: int = 200) -> Response:
    return HTMLResponse(parts.fragment("login.html", problem=problem), status)
