"""Web pages in a real browser on the machine of the gateway: whatever they try, no provider is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hfs_providers.gateway.guard import Guard
from hfs_providers.gateway.refusals import Refusal
from hfs_providers.testing import LoopbackServer
from tests.gateway.browser import Browser, browser, pages
from tests.gateway.served import HELLO, Served

BODY = json.dumps({"model": "groq", **HELLO})

# Each says what it was told.
ATTACKS = """
const [url, body] = given, chat = url + '/v1/chat/completions';
const said = {};
const running = [];
const attack = (name, run) => {
    said[name] = 'silence';
    running.push(run().then((a) => { said[name] = String(a); }, (error) => { said[name] = 'failed: ' + error.name; }));
};
const element = (tag, fields, base = document.body) => new Promise((resolve) => {
    const made = Object.assign(document.createElement(tag), fields);
    made.onload = () => resolve('loaded');
    made.onerror = () => resolve('failed');
    base.append(made);
});
const post = (options) => fetch(chat, {method: 'POST', body, ...options}).then((a) => a.type + ' ' + a.status);
attack('json', () => post({headers: {'content-type': 'application/json'}}));
attack('json, no-cors', () => post({mode: 'no-cors', headers: {'content-type': 'application/json'}}));
attack('text', () => post({headers: {'content-type': 'text/plain'}}));
attack('text, no-cors', () => post({mode: 'no-cors'}));
attack('text, with cookies', () => post({mode: 'no-cors', credentials: 'include'}));
attack('text, no referrer', () => post({mode: 'no-cors', referrerPolicy: 'no-referrer'}));
attack('xhr', () => new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open('POST', chat);
    request.onloadend = () => resolve('status ' + request.status);
    request.send(body);
}));
attack('beacon', async () => navigator.sendBeacon(chat, new Blob([body], {type: 'text/plain'})));
attack('json beacon', async () => navigator.sendBeacon(chat, new Blob([body], {type: 'application/json'})));
for (const enctype of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data'])
    attack('form ' + enctype, async () => {
        const frame = Object.assign(document.createElement('iframe'), {name: 'target-' + enctype});
        document.body.append(frame);
        const form = Object.assign(document.createElement('form'), {
            action: chat, method: 'POST', enctype, target: frame.name,
        });
        form.append(Object.assign(document.createElement('input'), {name: body.slice(0, -1) + ',"x":"', value: '"}'}));
        document.body.append(form);
        const loaded = new Promise((resolve) => { frame.onload = () => resolve('loaded'); });
        form.submit();
        return await loaded;
    });
attack('image', () => element('img', {src: url + '/v1/models'}));
attack('script', () => element('script', {src: url + '/v1/models'}));
attack('frame', () => element('iframe', {src: url + '/v1/models'}));
attack('read', () => fetch(url + '/v1/models').then((a) => a.text()));
attack('events', () => new Promise((resolve) => {
    const events = new EventSource(url + '/v1/models');
    events.onerror = () => { events.close(); resolve('failed'); };
}));
attack('socket', () => new Promise((resolve) => {
    const socket = new WebSocket(url.replace('http', 'ws') + '/v1/chat/completions');
    socket.onopen = () => { socket.send(body); resolve('open'); };
    socket.onerror = () => resolve('failed');
}));
await Promise.race([Promise.all(running), new Promise((resolve) => setTimeout(resolve, 5000))]);
return said;
"""
ASK = """
const [url, body] = given;
const headers = {'content-type': 'application/json'};
try {
    return await fetch(url + '/v1/chat/completions', {method: 'POST', body, headers}).then((a) => a.text());
} catch (error) {
    return 'failed: ' + error.name;
}
"""


class Door(Guard):
    """Remembers what was refused."""

    def __init__(self, *origins: str) -> None:
        super().__init__(origins=origins)
        self.refused: list[str] = []

    def admit(self, *arguments: Any) -> dict[bytes, bytes]:
        try:
            return super().admit(*arguments)
        except Refusal as refusal:
            self.refused.append(refusal.code)
            raise


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    # Names that their owner has pointed to this machine.
    rules = "--host-resolver-rules=MAP *.example 127.0.0.1"
    with browser(tmp_path_factory.mktemp("profile"), rules) as window:
        yield window


@pytest.mark.parametrize("page", ["evil.example", "localhost", "127.0.0.1"])
def test_a_page_of_another_origin_gets_nothing_through(window: Browser, page: str) -> None:
    door = Door()
    with LoopbackServer() as server, pages() as port, Served(server.env({"groq": 1}), guard=door) as served:
        for host in ("127.0.0.1", "localhost", "rebound.example"):
            window.open(f"http://{page}:{port}/")
            before = len(door.refused)
            said = window.run(ATTACKS, f"http://{host}:{served.port}", BODY)
            # They arrived: it is not the browser alone that kept them away.
            assert len(door.refused) >= before + 8, said
            assert not [told for told in said.values() if "groq" in told], said
        assert server.seen == []
        assert set(door.refused) == {"foreign_page", "foreign_host", "foreign_origin"}


def test_a_page_of_a_name_that_was_pointed_here_gets_nothing_through(window: Browser) -> None:
    door = Door()
    with LoopbackServer() as server, Served(server.env({"groq": 1}), guard=door) as served:
        # To the browser, page and gateway are of one origin.
        window.open(f"http://rebound.example:{served.port}/health")
        told = json.loads(window.run(ASK, f"http://rebound.example:{served.port}", BODY))
        assert told["error"]["code"] == "foreign_host"
        assert set(door.refused) == {"foreign_host"}
        assert server.seen == []


def test_a_page_that_is_allowed_gets_an_answer(window: Browser) -> None:
    with LoopbackServer() as server, pages() as port:
        origin = f"http://app.example:{port}"
        with Served(server.env({"groq": 1}), guard=Door(origin)) as served:
            window.open(origin)
            assert "You said: hello" in window.run(ASK, served.url, BODY)
            window.open(f"http://other.example:{port}")
            assert window.run(ASK, served.url, BODY) == "failed: TypeError"
        assert len(server.seen) == 1
