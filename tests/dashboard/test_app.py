"""The dashboard over HTTP: who may read it, who may act, and what a stranger's request gets."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hfs_providers import ProviderManager
from hfs_providers.dashboard import app
from hfs_providers.usage import Store
from tests.dashboard.shown import TOKEN, Shown
from tests.usage_rows import row, write

STATIC = Path(app.__file__).parent / "static"


@pytest.fixture(scope="module")
def shown(made_up: dict[str, str]) -> Iterator[Shown]:
    with Shown(made_up) as found:
        yield found


class TestPage:
    def test_every_file_that_it_names_is_served(self, shown: Shown) -> None:
        page = shown.get("/")
        names = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page.text)
        names += [f"dashboard/{name}" for name in re.findall(r'from "\./([\w.]+)"', (STATIC / "app.js").read_text())]
        assert len(names) > 8
        for name in names:
            answer = shown.get(f"/{name}")
            assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff"), name
            again = httpx.get(f"{shown.url}/{name}", headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")

    def test_allows_nothing_from_elsewhere_and_no_script_in_the_page(self, shown: Shown) -> None:
        page = shown.get("/")
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:", page.text)
        assert "http" not in re.sub(r"http-equiv", "", page.text)

    def test_is_sent_in_fewer_bytes(self, shown: Shown) -> None:
        for path in ("/dashboard/uplot.js", "/dashboard/api/keys"):
            with httpx.stream("GET", f"{shown.url}{path}") as answer:
                sent = sum(map(len, answer.iter_raw()))
            assert answer.headers["content-encoding"] == "gzip"
            assert sent < len(shown.get(path).content) / 2

    def test_is_small(self) -> None:
        assert sum(file.stat().st_size for file in STATIC.iterdir()) <= 150_000

    def test_texts_never_become_markup(self) -> None:
        scripts = "".join(file.read_text() for file in STATIC.glob("*.js") if file.name != "uplot.js")
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts)

    def test_what_is_no_file_of_it_is_not_served(self, shown: Shown) -> None:
        for path in ("/dashboard/uplot-LICENSE.txt", "/dashboard/../app.py", "/dashboard/%2e%2e%2fapp.py", "/x"):
            assert shown.get(path).status_code == 404, path


class TestData:
    @pytest.mark.parametrize(
        "asked",
        [
            "keys?limit=x",
            "keys?sort=colour",
            "keys?state=sleeping",
            "requests?before=-1",
            "usage?by=moon",
            "usage?of=love",
            "usage?lines=hour",
            "usage?since=nan",
            "usage?until=1e300",
            "usage.csv?by=moon",
            "live?after=1.5",
            "live?after=99999999999999999999",
        ],
    )
    def test_what_cannot_be_read_is_told(self, shown: Shown, asked: str) -> None:
        answer = shown.get(f"/dashboard/api/{asked}")
        assert (answer.status_code, list(answer.json())) == (400, ["error", "remedy"])

    def test_news_come_as_soon_as_there_are_some(self, own: dict[str, str]) -> None:
        with Shown(own) as shown:
            last = shown.read("requests", limit=1)["rows"][0]["id"]
            found: list[dict[str, object]] = []
            asking = threading.Thread(target=lambda: found.extend(shown.read("live", after=last, wait=15)["rows"]))
            asking.start()
            write(Store(own["HFS_USAGE_DB"]), [row(time.time(), model="new")])
            asking.join(30)
        assert [each["model"] for each in found] == ["new"]

    def test_who_waits_for_news_does_not_keep_it_from_ending(
        self, own: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app, "_LONGEST_WAIT", 600.0)
        waits = threading.Event()
        answers: list[httpx.Response] = []
        with Shown(own) as shown:
            requests = shown.dashboard.requests
            monkeypatch.setattr(requests, "last", lambda: waits.set() or 0)
            asking = threading.Thread(target=lambda: answers.append(shown.get("/dashboard/api/live", wait=600)))
            asking.start()
            assert waits.wait(30)
        asking.join(30)
        assert [answer.status_code for answer in answers] == [200]

    def test_no_secret_is_in_any_answer(self, shown: Shown, made_up: dict[str, str]) -> None:
        secrets = [value for name, value in made_up.items() if "_API_KEY_" in name]
        said = "".join(
            shown.get(f"/dashboard/api/{name}").text
            for name in ("overview", "keys", "map", "requests", "usage", "usage.csv", "key?id=groq%231")
        )
        assert "groq#1" in said
        assert not [secret for secret in secrets if secret in said]

    def test_a_file_of_a_later_version_is_told_with_the_remedy(self, tmp_path: Path) -> None:
        env = {"HFS_USAGE_DB": str(tmp_path / "u.db"), "NUM_GROQ": "1", "GROQ_API_KEY_1": "gsk_x"}
        store = Store(env["HFS_USAGE_DB"])
        with store.connect() as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        with Shown(env) as shown:
            answer = shown.get("/dashboard/api/overview")
        assert answer.status_code == 503
        assert "pip install -U" in answer.json()["remedy"]


class TestWho:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"host": "evil.example"}, 403),
            ({"origin": "https://evil.example"}, 403),
            ({"sec-fetch-site": "cross-site"}, 403),
            ({"sec-fetch-site": "same-origin"}, 200),
        ],
    )
    def test_no_other_site_reads_it(self, shown: Shown, headers: dict[str, str], status: int) -> None:
        assert httpx.get(f"{shown.url}/dashboard/api/overview", headers=headers).status_code == status

    def test_an_action_needs_the_token(self, own: dict[str, str]) -> None:
        with Shown(own) as shown:
            assert shown.act("retire", token="another", key="groq#1").status_code == 401
            without = httpx.post(f"{shown.url}/dashboard/api/retire", json={"key": "groq#1"})
            assert without.status_code == 401
            assert shown.read("key", id="groq#1")["state"] != "dead"

    def test_an_action_is_no_form_and_no_get(self, shown: Shown) -> None:
        headers = {"authorization": f"Bearer {TOKEN}"}
        form = httpx.post(f"{shown.url}/dashboard/api/revive", data={"key": "groq#1"}, headers=headers)
        assert form.status_code == 415
        assert httpx.get(f"{shown.url}/dashboard/api/revive", headers=headers).status_code == 405

    @pytest.mark.parametrize("body", [b"", b"[]", b'{"key": 3}', b'{"key": "groq#1", "reason": []}', b"[" * 9000])
    def test_a_body_that_is_none_is_told(self, shown: Shown, body: bytes) -> None:
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        answer = httpx.post(f"{shown.url}/dashboard/api/retire", content=body, headers=headers)
        assert answer.status_code == 400
        large = httpx.post(f"{shown.url}/dashboard/api/retire", content=b" " * 20_000, headers=headers)
        assert large.status_code == 413

    def test_read_only_has_no_actions(self, own: dict[str, str]) -> None:
        with Shown(own, read_only=True) as shown:
            assert shown.read("overview")["actions"] is False
            assert shown.act("revive", key="groq#1").status_code == 403


class TestActions:
    def test_a_key_is_retired_and_revived_for_all_processes(self, own: dict[str, str]) -> None:
        with Shown(own) as shown:
            done = shown.act("retire", key="groq#1", reason="sold")
            assert (done.status_code, done.json()["state"], done.json()["reason"]) == (200, "dead", "retired: sold")
            assert shown.read("key", id="groq#1")["state"] == "dead"
            with ProviderManager(env=own) as manager:
                states = {each.id: each.state for each in manager.wrapper("groq").pool.statuses()}
            assert states["groq#1"] == "dead"
            assert shown.act("revive", key="groq#1").json()["state"] == "ready"
            assert shown.read("key", id="groq#1")["state"] == "ready"
            kinds = [event["kind"] for event in shown.read("key", id="groq#1")["events"]]
            assert kinds[:2] == ["key_revived", "key_dead"]

    def test_a_key_in_a_reason_is_not_kept(self, own: dict[str, str]) -> None:
        with Shown(own) as shown:
            done = shown.act("retire", key="groq#2", reason=f"it was {own['GROQ_API_KEY_2']}")
        assert own["GROQ_API_KEY_2"] not in json.dumps(done.json())

    def test_a_key_that_there_is_not(self, shown: Shown) -> None:
        assert shown.act("revive", key="groq#99").status_code == 404
        assert shown.get("/dashboard/api/key", id="groq#99").status_code == 404

    def test_without_a_usage_file_it_is_refused(self, own: dict[str, str]) -> None:
        with Shown({**own, "HFS_USAGE_DB": "off"}) as shown:
            assert shown.act("retire", key="groq#1").status_code == 409
