"""Many who ask a server at once; and a server over a bucket"""

import asyncio
import threading

import httpx
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from raybench.results.store import Store
from raybench.serve import new_routes
from raybench.serve.guard import CSRF
from raybench.storage.open import open_storage
from tests.s3 import served_bucket
from tests.unit.result_rows import row, trial
from tests.unit.serving import FORM, HERE


def test_plans_and_streams_that_wait_keep_no_page_waiting(serving, monkeypatch):
    """Each holds a thread while it waits; forty of them are all that the server has."""
    released = threading.Event()
    monkeypatch.setattr(new_routes, "answer", lambda *_, **__: released.wait(20))
    browser = serving()
    headers = {CSRF: browser.headers[CSRF]}

    async def crowd():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(browser.app), base_url=HERE) as client:
            waiting = [asyncio.create_task(client.post("/preview", data=FORM, headers=headers)) for _ in range(60)]
            await asyncio.sleep(0.2)
            try:
                return await asyncio.wait_for(client.get("/news"), 10)
            finally:
                for one in waiting:
                    one.cancel()
                released.set()

    assert asyncio.run(crowd()).status_code == 200


def test_few_files_are_received_at_a_time(serving, monkeypatch):
    monkeypatch.setattr(new_routes, "SENDING", 0)
    answer = serving().post("/upload", files={"file": ("a.pt", b"x")})
    assert (answer.status_code, "being uploaded already" in answer.text) == (503, True)


def test_a_bucket_is_served_as_a_folder_is(tmp_path, serving, monkeypatch):
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "cache"))
    with served_bucket(monkeypatch, "served") as url:
        storage = open_storage(url)
        of = trial()
        Store(storage).publish(row(of, artifact=f"artifacts/{of.trial_id}"))
        storage.create(f"artifacts/{of.trial_id}/model.safetensors", b"tensors")
        browser = serving(storage=url)
        assert "<h1>one</h1>" in browser.get("/index.html").text  # not the options of the address
        assert browser.get(f"/files/artifacts/{of.trial_id}/model.safetensors").content == b"tensors"
        assert browser.get(f"/files/artifacts/{of.trial_id}/pruned.json").status_code == 404
        assert "to run" in browser.post("/preview", data=FORM).text
