"""Files with keys that change while a manager runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hfs_providers import (
    Event,
    KeyedProvider,
    Limits,
    ModelDefault,
    ProviderManager,
    ProviderUnavailableError,
    hookimpl,
)
from hfs_providers.authoring import ProviderConfig
from hfs_providers.contract.secret import fingerprint
from hfs_providers.keys import file_watch
from hfs_providers.testing import LoopbackServer, Ok

Make = Callable[..., Any]
meanwhile: list[Callable[[], object]] = []
"""What happens while Acme is configured."""


class Acme(KeyedProvider):
    @hookimpl
    def configure_env(self, env: Mapping[str, str]) -> ProviderConfig:
        found = super().configure_env(env)
        while meanwhile:
            meanwhile.pop()()
        return found


ACME = Acme("acme", "nowhere:Model", client="own", models=[ModelDefault("m")])


def key(number: int) -> str:
    return f"acme-mArKeD-{number:04d}-0123456789"


def ids(*numbers: int) -> list[str]:
    return [f"acme@{fingerprint(key(number))}" for number in numbers]


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hfs-files"]


class KeyFile:
    """A file with keys, and a manager that is made to read it again."""

    def __init__(self, path: Path, plugins: Sequence[object], env: dict[str, str]) -> None:
        self.path = path
        self.plugins = plugins
        self.env = {"ACME_API_KEYS_FILE": str(path), "HFS_USAGE_DB": str(path.parent / "usage.db"), **env}
        self._manager: ProviderManager | None = None

    @property
    def manager(self) -> ProviderManager:
        if self._manager is None:
            self._manager = ProviderManager(self.env, plugins=self.plugins)
        return self._manager

    @property
    def pool(self) -> Any:
        return self.manager.wrappers["acme"].pool

    @property
    def ids(self) -> list[str]:
        return [credential.id for credential in self.pool.credentials]

    def write(self, *lines: str | int) -> None:
        """Replace it by a file with these lines, as container platforms and careful editors do."""
        new = self.path.with_suffix(".new")
        new.write_text("".join(f"{key(line) if isinstance(line, int) else line}\n" for line in lines))
        new.chmod(0o600)
        new.rename(self.path)

    def look(self, times: int = 2) -> None:
        """Let the manager read it that often. A change counts when two reads have found the same."""
        for watch in self.manager._watches:
            for _ in range(times):
                watch.look()

    def said(self) -> list[tuple[str, str]]:
        return [(each.level, each.message.replace(str(self.path), "FILE")) for each in self.manager.problems]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., KeyFile]]:
    """A key file with these keys, and a manager that has read it."""
    # The tests read the file, so that they know how often it was read.
    monkeypatch.setattr(type(file_watch._watching), "_run", lambda self, stop: stop.wait())
    made: list[KeyFile] = []

    def start(*lines: str | int, **env: str) -> KeyFile:
        file = KeyFile(tmp_path / "acme.keys", [ACME], env)
        made.append(file)
        if lines:
            file.write(*lines)
        file.look()
        return file

    yield start
    for file in made:
        file.manager.shutdown()


def test_keys_join_and_leave_as_the_file_says(start: Callable[..., KeyFile]) -> None:
    file = start(1, 2)
    file.write(2, 3)
    file.look()
    assert file.ids == ids(2, 3)
    assert (file.manager.environment_status["acme"]["keys"], file.said()) == (2, [])


def test_a_change_counts_when_two_reads_have_found_the_same(start: Callable[..., KeyFile]) -> None:
    file = start(1)
    file.write(2)
    file.look(times=1)
    file.write(3)
    file.look(times=1)
    assert file.ids == ids(1)
    file.look(times=1)
    assert file.ids == ids(3)


def test_a_change_while_the_provider_is_configured_again_is_not_lost(start: Callable[..., KeyFile]) -> None:
    file = start(1)
    file.write(2)
    meanwhile.append(lambda: file.write(3))
    file.look()
    assert file.ids == ids(1)
    file.look()
    assert file.ids == ids(3)


def spoil(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "a directory":
        path.unlink()
        path.mkdir()
    elif how == "a pipe":
        path.unlink()
        os.mkfifo(path)
    elif how == "writable for all":
        path.chmod(0o666)
    else:
        contents = {"empty": "", "placeholders": "todo\n", "garbage": "\0\1\2", "half a key": f"{key(1)[:9]} "}
        path.write_text(contents.get(how, f"{key(1)} and more words\n"))


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        ("deleted", "does not exist"),
        ("a directory", "is a directory"),
        ("a pipe", "is a pipe or a device, not a file"),
        ("writable for all", "can be changed by every user of this machine"),
        ("empty", "holds no key"),
        ("placeholders", "holds no key"),
        ("garbage", "is not UTF-8 text"),
        ("words", "holds no key"),
    ],
)
def test_a_file_that_cannot_be_used_keeps_the_last_keys(
    start: Callable[..., KeyFile], caplog: pytest.LogCaptureFixture, how: str, fault: str
) -> None:
    file = start(1, 2)
    lease = file.pool.acquire("m")
    spoil(file.path, how)
    file.look()
    assert file.ids == ids(1, 2)
    assert file.said()[0] == ("warning", f"ACME_API_KEYS_FILE: FILE {fault}")
    assert file.said()[-1] == ("warning", "ACME_API_KEYS_FILE: the keys that were read before (2) stay in use")
    assert file.manager.is_provider_healthy("acme")
    assert "mArKeD" not in f"{caplog.text}{file.manager.problems}"
    lease.commit()
    if file.path.is_dir():
        file.path.rmdir()
    file.write(1)
    file.look()
    assert (file.ids, file.said()) == (ids(1), [])


def test_numbered_keys_keep_their_numbers_and_stay(start: Callable[..., KeyFile]) -> None:
    file = start(2, 1, NUM_ACME="1", ACME_API_KEY_1=key(1), ACME_API_KEYS=key(5))
    assert file.ids == ["acme#1", *ids(5, 2)]
    file.write(1)
    file.look()
    # The file has a key, though none of its own: that is no fault.
    assert file.ids == ["acme#1", *ids(5)]
    assert file.said() == [
        ("warning", "ACME_API_KEYS_FILE: FILE repeats keys that keep their numbers (acme#1)"),
    ]


def test_a_key_whose_account_changes_moves_there(start: Callable[..., KeyFile]) -> None:
    file = start(1, f"{key(2)},team", f"{key(3)},team", ACME_LIMITS="rpm=1")
    file.write(f"{key(1)},team", f"{key(2)},team", 3)
    file.look()
    assert {each.id: each.account for each in file.pool.credentials} == dict(
        zip(ids(1, 2, 3), ["team", "team", fingerprint(key(3))], strict=True)
    )
    file.pool.acquire("m", key_id=ids(1)[0]).commit()
    assert [status.state for status in file.pool.statuses("m")].count("limited") == 2


def test_a_provider_gets_its_first_keys_while_the_program_runs(start: Callable[..., KeyFile]) -> None:
    file = start()
    assert file.manager.available_providers == []
    with pytest.raises(ProviderUnavailableError, match="does not exist"):
        file.manager.wrapper("acme")
    assert not file.manager.is_provider_healthy("acme")
    file.write(1)
    file.look()
    assert file.manager.available_providers == ["acme"]
    assert file.manager.wrapper("acme").pool.acquire("m").key_id == ids(1)[0]
    assert (file.manager.is_provider_healthy("acme"), file.said()) == (True, [])


def test_what_is_known_of_a_key_is_known_when_it_comes_back(start: Callable[..., KeyFile]) -> None:
    file = start(1, 2, ACME_LIMITS="rpm=1")
    file.pool.retire(ids(1)[0], "by hand")
    file.write(2)
    file.look()
    file.write(1, 2)
    file.look()
    assert {each.id: each.reason for each in file.pool.statuses()} == {ids(1)[0]: "by hand", ids(2)[0]: None}


def test_what_answers_showed_of_a_key_is_known_when_it_comes_back(start: Callable[..., KeyFile]) -> None:
    file = start(1, 2)
    file.pool.learn("m", ids(1)[0], Limits(rpm=7))
    for lines in ((2,), (1, 2)):
        file.write(*lines)
        file.look()
    assert [(use.unit, use.limit) for use in file.pool.used("m")[ids(1)[0]]] == [("requests", 7)]


def test_a_key_that_joined_is_shown_nowhere(start: Callable[..., KeyFile]) -> None:
    file = start(1)
    file.write(2)
    file.look()
    backend: Any = file.manager.wrappers["acme"].backend
    assert backend.redactor.scrub(f"the key {key(2)} is wrong") == f"the key [{ids(2)[0]}] is wrong"


def test_a_wrapper_that_cannot_change_its_keys_is_said(
    start: Callable[..., KeyFile], fake_provider: Make, tmp_path: Path
) -> None:
    class Pool:
        def __init__(self, config: Any) -> None:
            self.credentials = config.credentials

    def build(config: Any, services: Any) -> Any:
        return SimpleNamespace(pool=Pool(config), get_model=None, close=lambda: None)

    file = KeyFile(tmp_path / "acme.keys", [fake_provider("acme", build_wrapper=build)], {})
    file.write(1)
    file.look()
    file.write(2)
    file.look()
    assert file.ids == ids(1)
    assert file.said() == [("warning", "acme cannot change its keys while it runs")]
    file.manager.shutdown()


def test_one_thread_reads_all_files_and_goes_with_the_last(
    start: Callable[..., KeyFile], tmp_path: Path, fake_provider: Make
) -> None:
    with ProviderManager({"ACME_API_KEY": key(1)}, plugins=[fake_provider("acme")]):
        assert watchers() == []
    file = start(1)
    other = start(1)
    (thread,) = watchers()
    assert thread.daemon
    file.manager.shutdown()
    assert watchers() == [thread]
    other.manager.shutdown()
    thread.join(10)
    assert watchers() == []


def test_calls_go_on_while_the_file_is_replaced(tmp_path: Path) -> None:
    """Through the real SDK: each call is answered, whichever key it began with."""
    path = tmp_path / "groq.keys"
    path.touch(0o600)
    with LoopbackServer() as server:
        old, new = ([server.new_key("groq") for _ in range(3)] for _ in range(2))
        env = {
            **server.env({"groq": old}),
            "HFS_USAGE_DB": "off",
            "GROQ_LIMITS": "none",
            "GROQ_API_KEYS_FILE": str(path),
        }
        env = {name: value for name, value in env.items() if not name.startswith(("GROQ_API_KEY_", "NUM_"))}
        path.write_text("\n".join(old))
        server.script("groq", "*", [], then=Ok("hello", delay=0.02))
        with ProviderManager(env) as manager:
            wrapper = manager.wrappers["groq"]
            client = wrapper.get_openai_client(affinity=None)
            served: dict[str, threading.Event] = {fingerprint(each): threading.Event() for each in (*old, *new)}
            failures: list[Event] = []

            def note(event: Event) -> None:
                if event.usage is not None:
                    served[event.usage.fingerprint].set()
                    if event.usage.outcome != "ok":
                        failures.append(event)

            manager.observe(note)
            done = threading.Event()

            def call() -> None:
                client.chat.completions.create(messages=[{"role": "user", "content": "hello"}])

            def calls() -> None:
                while not done.is_set():
                    call()

            threads = [threading.Thread(target=calls) for _ in range(3)]
            for thread in threads:
                thread.start()
            assert all(served[fingerprint(each)].wait(30) for each in old)
            other = tmp_path / "other"
            other.touch(0o600)
            other.write_text("\n".join(new))
            other.rename(path)
            assert all(served[fingerprint(each)].wait(30) for each in new)
            done.set()
            for thread in threads:
                thread.join(10)
            assert failures == []
            counts = wrapper.pool.counts(wrapper.default_model_id)
            assert (counts.total, counts.in_flight, counts.reserved_tokens) == (3, 0, 0)
            for each in served.values():
                each.clear()
            for _ in range(4):
                call()
            assert [served[fingerprint(each)].is_set() for each in (*old, *new)] == [False] * 3 + [True] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_children_and_other_processes_follow_the_file(tmp_path: Path) -> None:
    # In a process of its own, because a fork of the test runner would take its threads' state along.
    path = tmp_path / "groq.keys"
    path.touch(0o600)
    path.write_text("a-first-key-0001\n")
    program = (
        "import os, sys, time\n"
        "from hfs_providers import ProviderManager\n"
        "path = os.environ['GROQ_API_KEYS_FILE']\n"
        "manager = ProviderManager()\n"
        "child = os.fork()\n"
        "other = child == 0 and os.fork()\n"
        "os.write(1, b'ready\\n')\n"
        "pool, end = manager.wrappers['groq'].pool, time.monotonic() + 60\n"
        "while len(pool.credentials) != 2:\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.01)\n"
        "lease = pool.acquire('m')\n"
        "lease.commit()\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "elif other:\n"
        "    assert os.waitpid(other, 0)[1] == 0\n"
        "manager.shutdown()\n"
        "if not child:\n"
        "    os._exit(0)\n"
    )
    env = {**os.environ, "GROQ_API_KEYS_FILE": str(path), "HFS_USAGE_DB": str(tmp_path / "usage.db")}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
        path.write_text("a-first-key-0001\na-second-key-0002\n")
        assert process.wait(60) == 0
