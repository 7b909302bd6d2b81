"""What a manager keeps: from the environment to the rows of real calls, and to the end of the program."""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import platformdirs
import pytest
from agno.models.message import Message

from hfs_providers import Event, Problem, ProviderManager
from hfs_providers.core.inventory import take_inventory
from hfs_providers.core.settings import Settings
from hfs_providers.core.storage_status import storage_status
from hfs_providers.keys import fingerprint
from hfs_providers.testing import LoopbackServer, RateLimited, Unauthorized
from hfs_providers.usage import UsageRow
from hfs_providers.usage.forwarding.process_lock import try_lock
from hfs_providers.usage.forwarding.sending import Sent, send
from hfs_providers.usage.location import Places
from tests.sharing.redis_server import eventually

Make = Callable[..., Any]

ROW = UsageRow(1_700_000_000.0, "acme", "m", "acme#1", "ab12cd34", 2, 3, 5, 0.25, "ok", 5)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as found:
        yield found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


def ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


class TestPlaces:
    @pytest.mark.parametrize("said", [{}, {"HFS_USAGE_DB": "  "}, {"HFS_USAGE_DB": "mysql://host/db"}])
    def test_the_file_is_in_the_state_directory_by_default(self, said: dict[str, str], tmp_path: Path) -> None:
        assert Places.of(said).path == tmp_path / "home" / "state" / "usage.db"

    def test_a_path_may_be_given(self) -> None:
        assert Places.of({"HFS_USAGE_DB": "~/mine.db"}).path == Path.home() / "mine.db"

    @pytest.mark.parametrize("off", ["off", "OFF", " off "])
    def test_it_may_be_turned_off(self, off: str) -> None:
        assert Places.of({"HFS_USAGE_DB": off}).path is None

    def test_urls_are_targets(self) -> None:
        places = Places.of({"HFS_USAGE_DB": "postgresql://u:hunter2@a/b", "TIDB_DB_URL": "mysql://u:hunter2@c/d"})
        assert list(places.targets) == ["HFS_USAGE_DB", "TIDB_DB_URL"]
        assert "hunter2" not in repr(places)

    @pytest.mark.parametrize("variable", ["TIDB_DB_URL", "HFS_FORWARD_DB"])
    def test_a_database_has_two_names(self, variable: str) -> None:
        assert dict(Places.of({variable: "mysql://a/b"}).targets) == {variable: "mysql://a/b"}

    def test_both_may_name_the_same(self) -> None:
        places = Places.of({"TIDB_DB_URL": "mysql://a/b", "HFS_FORWARD_DB": "mysql://a/b"})
        assert (list(places.targets), places.problems) == (["HFS_FORWARD_DB"], ())

    def test_two_different_ones_are_a_problem(self) -> None:
        places = Places.of({"TIDB_DB_URL": "mysql://u:hunter2@a/b", "HFS_FORWARD_DB": "mysql://u:hunter2@c/d"})
        assert list(places.targets) == ["HFS_FORWARD_DB"]
        [problem] = places.problems
        assert (problem.message, problem.remedy) == (
            "HFS_FORWARD_DB and TIDB_DB_URL name different databases: TIDB_DB_URL is not used",
            "Remove TIDB_DB_URL",
        )

    @pytest.mark.parametrize("variable", ["TIDB_DB_URL", "HFS_FORWARD_DB"])
    def test_a_database_without_a_scheme_is_a_problem_and_not_shown(self, variable: str) -> None:
        env = {variable: "me.root:hunter2@gateway01.eu-central-1.prod.aws.tidbcloud.com:4000/test"}
        with ProviderManager({**env, "HFS_USAGE_DB": "off"}, plugins=[]) as manager:
            [problem] = manager.problems
        assert problem.message == f"{variable} has no scheme: usage is not forwarded to it"
        assert problem.remedy == f"Write {variable} as mysql://user:password@host:4000/database"
        assert storage_status({**env, "HFS_USAGE_DB": "off"}).problems == (problem,)

    def test_looking_makes_nothing(self, path: Path) -> None:
        found = storage_status({"HFS_USAGE_DB": str(path)})
        assert (found.path, found.size, found.targets, found.sharing) == (path, None, (), "file")
        assert not path.exists()


class TestRelativePaths:
    """They are resolved once, where the program started."""

    def test_a_path_stays_where_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "elsewhere").mkdir()
        with ProviderManager({"HFS_USAGE_DB": "mine/usage.db"}, plugins=[]) as manager:
            monkeypatch.chdir("elsewhere")
            manager.record(ROW)
            manager.persistence.flush()
            assert storage_status(manager.inventory.settings.env).path == tmp_path / "mine" / "usage.db"
        assert ask(tmp_path / "mine" / "usage.db", "SELECT count(*) FROM usage") == [(1,)]
        assert not list((tmp_path / "elsewhere").iterdir())

    @pytest.mark.parametrize("variable", ["TIDB_DB_URL", "HFS_FORWARD_DB", "HFS_USAGE_DB"])
    def test_so_does_a_database_of_sqlite(self, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "elsewhere").mkdir()
        with ProviderManager({variable: "sqlite:///all.db"}, plugins=[]) as manager:
            monkeypatch.chdir("elsewhere")
            manager.record(ROW)
        assert ask(tmp_path / "all.db", "SELECT count(*) FROM hfs_usage") == [(1,)]

    @pytest.mark.parametrize("said", ["off", "~/u.db", "/srv/u.db", "mysql://a/b", "sqlite:////srv/u.db", "sqlite://"])
    def test_what_is_not_relative_stays_as_it_was_said(self, said: str) -> None:
        assert Settings.load({"HFS_USAGE_DB": said}).env["HFS_USAGE_DB"] == said


class TestNowhere:
    """No file can be named: usage is not kept, and why is a problem."""

    @pytest.fixture
    def homeless(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user without HOME and without an entry in passwd, as containers have them."""

        def nobody(_: object) -> None:
            raise KeyError

        import pwd

        for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", nobody)
        for kind in ("state", "config"):
            name = f"user_{kind}_path"
            monkeypatch.setattr(
                platformdirs, name, lambda app, *_, name=name, **__: getattr(platformdirs.PlatformDirs(app), name)
            )

    def test_without_a_home_directory(self, homeless: None, tmp_path: Path) -> None:
        with ProviderManager({}, plugins=[]) as manager:
            manager.record(ROW)
            [problem] = manager.problems
            assert storage_status(manager.inventory.settings.env).problems == (problem,)
        assert problem.message == "usage is not kept: there is no home directory for its file"
        assert problem.remedy == "Set HFS_USAGE_DB to an absolute path, or to off"
        assert not list(tmp_path.iterdir())

    def test_a_path_is_enough_without_one(self, homeless: None, path: Path) -> None:
        with ProviderManager({"HFS_USAGE_DB": str(path)}, plugins=[]) as manager:
            assert manager.problems == []

    @pytest.mark.parametrize("said", ["~nosuchuser/u.db", "a\0b"])
    def test_a_name_that_no_file_can_have(self, said: str) -> None:
        with ProviderManager({"HFS_USAGE_DB": said}, plugins=[]) as manager:
            manager.record(ROW)
            [problem] = manager.problems
            assert manager.persistence.log is None
        assert "HFS_USAGE_DB" in problem.message

    def test_a_name_that_is_too_long_is_looked_up(self) -> None:
        assert "too long" in storage_status({"HFS_USAGE_DB": "/" + "u" * 300}).problems[0].message


class TestCalls:
    def test_rows_of_calls_equal_what_the_provider_answered(self, server: LoopbackServer, path: Path) -> None:
        env = {**server.env({"groq": 4}), "HFS_USAGE_DB": str(path), "GROQ_LIMITS": "none"}
        server.script("groq", env["GROQ_API_KEY_1"], [], then=RateLimited(retry_after=60))
        server.script("groq", env["GROQ_API_KEY_2"], [], then=Unauthorized())
        with ProviderManager(env) as manager:
            model = manager.get_model("groq")

            def call() -> None:
                for _ in range(10):
                    model.response(messages=[Message(role="user", content="hello")])

            threads = [threading.Thread(target=call) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        rows = ask(path, "SELECT fingerprint, model, outcome FROM usage JOIN series ON series.id = usage.series")
        answered = Counter((mark, model) for mark, model, outcome in rows if outcome == "ok")
        assert answered == {(fingerprint(key), model): hits for (key, model), hits in server.answered("groq").items()}
        assert answered.total() == 40
        assert Counter(mark for mark, *_ in rows) == Counter(each.fingerprint for each in server.seen)

    def test_tokens_are_as_the_provider_counted_them(self, server: LoopbackServer, path: Path) -> None:
        env = {**server.env({"groq": 1}), "HFS_USAGE_DB": str(path)}
        with ProviderManager(env) as manager:
            manager.get_model("groq").response(messages=[Message(role="user", content="hello")])
        assert ask(path, "SELECT tokens, charged FROM usage") == [(server.seen[0].tokens,) * 2]

    def test_a_second_process_knows_the_keys_of_the_first(self, server: LoopbackServer, path: Path) -> None:
        env = {**server.env({"groq": 3}), "HFS_USAGE_DB": str(path), "GROQ_LIMITS": "rpd=1"}
        server.script("groq", env["GROQ_API_KEY_1"], [], then=RateLimited(retry_after=600))
        server.script("groq", env["GROQ_API_KEY_2"], [], then=Unauthorized())
        with ProviderManager(env) as manager:
            manager.get_model("groq", affinity=None).response(messages=[Message(role="user", content="hello")])
        with ProviderManager(env) as manager:
            pool = manager.wrappers["groq"].pool
            model = manager.default_model("groq")
            assert [status.state for status in pool.statuses(model)] == ["cooling", "dead", "limited"]

    def test_no_key_reaches_the_file(self, server: LoopbackServer, path: Path) -> None:
        self.test_a_second_process_knows_the_keys_of_the_first(server, path)
        keys = [value for name, value in server.env({"groq": 3}).items() if "_API_KEY_" in name]
        for each in path.parent.glob("usage.db*"):
            data = each.read_bytes()
            assert not any(key[-8:].encode() in data for key in keys)


class TestFileThatComesLate:
    """At the start it could not be used: its disk was full, or not there yet."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        (tmp_path / "disk").write_text("not there yet")
        return tmp_path / "disk" / "usage.db"

    def mount(self, path: Path, disk: Path | None = None) -> None:
        path.parent.unlink()
        if disk is not None:
            disk.rename(path.parent)

    def test_rows_wait_for_it(self, path: Path) -> None:
        with ProviderManager({"HFS_USAGE_DB": str(path)}, plugins=[]) as manager:
            manager.record(ROW)
            assert not manager.persistence.flush()
            [problem] = manager.problems
            assert problem.message.startswith(f"usage cannot be kept in {path}: ")
            assert "(1 rows wait in memory)" in problem.message
            self.mount(path)
            manager.record(ROW)
            assert manager.persistence.flush()
            assert manager.problems == []
        assert ask(path, "SELECT COUNT(*) FROM usage") == [(2,)]

    def test_it_is_tried_again_without_any_row(self, path: Path, fake_provider: Make) -> None:
        env = {"ACME_API_KEY": "a-key-of-acme", "HFS_USAGE_DB": str(path)}
        with ProviderManager(env, plugins=[fake_provider("acme")]) as manager:
            self.mount(path)
            eventually(lambda: not manager.problems)
        assert path.exists()

    def test_what_it_knows_of_keys_is_taken_over(self, path: Path, tmp_path: Path) -> None:
        env = {"GROQ_API_KEY": "gsk_one-key-of-groq", "GROQ_LIMITS": "rpd=3"}
        with ProviderManager({**env, "HFS_USAGE_DB": str(tmp_path / "away" / "usage.db")}) as manager:
            [key] = manager.wrappers["groq"].pool.credentials
            manager.wrappers["groq"].pool.retire(key.id, "by its owner")
            row = ROW._replace(provider="groq", model="m", key_id=key.id, fingerprint=key.fingerprint, at=time.time())
            manager.record(row)
            manager.record(row)
        with ProviderManager({**env, "HFS_USAGE_DB": str(path)}) as manager:
            pool = manager.wrappers["groq"].pool
            assert pool.acquire("m", timeout=0).commit(0) is None
            manager.record(row)
            self.mount(path, tmp_path / "away")
            ledger: Any = manager.persistence._ledger
            eventually(lambda: not (manager.persistence.problems or ledger._unread))
            assert pool.statuses()[0].state == "dead"
            assert [use.used for use in pool.used("m")[key.id]] == [3]

    def test_keys_are_shared_from_then_on(self, path: Path, fake_provider: Make) -> None:
        env = {"ACME_API_KEY": "a-key-of-acme", "HFS_USAGE_DB": str(path)}
        with ProviderManager(env, plugins=[fake_provider("acme")]) as first:
            self.mount(path)
            eventually(lambda: storage_status(env).processes)
            with ProviderManager(env, plugins=[fake_provider("acme")]) as second:
                lease = first.wrappers["acme"].pool.acquire("m")
                second.wrappers["acme"].pool.acquire("m").release()
                lease.release()
                ledger: Any = first.persistence._ledger
                eventually(lambda: ledger.shared)
                assert ledger.shared


class TestRecording:
    def test_a_row_is_kept(self, path: Path) -> None:
        with ProviderManager({"HFS_USAGE_DB": str(path)}, plugins=[]) as manager:
            manager.record(ROW)
        assert ask(path, "SELECT COUNT(*) FROM usage") == [(1,)]

    def test_a_row_is_told_to_who_observes_while_he_does(self) -> None:
        seen: list[Event] = []
        with ProviderManager({"HFS_USAGE_DB": "off"}, plugins=[]) as manager:
            manager.record(ROW)
            leave = manager.observe(seen.append)
            manager.record(ROW)
            leave()
            manager.record(ROW)
        assert [event.usage for event in seen] == [ROW]


class FakeForwarder:
    """Goes nowhere."""

    made: list[FakeForwarder]

    def __init__(self, store: object, url: str) -> None:
        self.name = "mysql://db.example/usage"
        self.problem: Problem | None = None
        self.woken = threading.Event()
        self.closed = 0
        self.made.append(self)

    def wake(self) -> None:
        self.woken.set()

    def close(self) -> None:
        self.closed += 1
        raise OSError("the line is cut")


@pytest.fixture
def forwarders(monkeypatch: pytest.MonkeyPatch) -> list[FakeForwarder]:
    """Those that were made."""
    module = ModuleType("hfs_providers.usage.forwarding.forwarder")
    FakeForwarder.made = []
    module.Forwarder = FakeForwarder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return FakeForwarder.made


class TestForwarding:
    def test_a_database_is_claimed_where_there_is_one(self, forwarders: list[FakeForwarder], path: Path) -> None:
        env = {"HFS_USAGE_DB": str(path), "TIDB_DB_URL": "mysql://u:hunter2@db.example/usage"}
        with ProviderManager(env, plugins=[]) as manager:
            assert manager.get_status_summary().splitlines()[-1] == "  TiDB persistence: Yes"
            # An earlier process may have left rows.
            [forwarder] = forwarders
            assert forwarder.woken.is_set()

    @pytest.mark.parametrize(
        ("variable", "url", "said"),
        [
            ("TIDB_DB_URL", "mysql://db.example/usage", "Yes"),
            ("HFS_FORWARD_DB", "mysql://me@gateway01.eu-central-1.prod.aws.tidbcloud.com:4000/test", "Yes"),
            ("HFS_FORWARD_DB", "tidb://db.example/usage", "Yes"),
            ("HFS_FORWARD_DB", "mysql://db.example/usage", "No (MySQL: mysql://db.example/usage)"),
            ("TIDB_DB_URL", "mariadb://u:hunter2@db.example/usage", "No (MariaDB: mysql://u@db.example/usage)"),
            ("TIDB_DB_URL", "postgresql://db.example/usage", "No (PostgreSQL: postgresql://db.example/usage)"),
        ],
    )
    def test_it_is_called_by_its_name(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, url: str, said: str
    ) -> None:
        monkeypatch.setattr("hfs_providers.usage.forwarding.forwarder.Forwarder.wake", lambda self: None)
        with ProviderManager({"HFS_USAGE_DB": str(path), variable: url}, plugins=[]) as manager:
            assert manager.get_status_summary().splitlines()[-1] == f"  TiDB persistence: {said}"
            assert storage_status(manager.inventory.settings.env).summary == f"TiDB persistence: {said}"

    def test_it_is_told_of_rows(self, forwarders: list[FakeForwarder], path: Path) -> None:
        env = {"HFS_USAGE_DB": str(path), "TIDB_DB_URL": "mysql://db.example/usage"}
        with ProviderManager(env, plugins=[]) as manager:
            forwarders[0].woken.clear()
            manager.record(ROW)
            assert forwarders[0].woken.wait(20)

    def test_its_troubles_are_the_manager_s_problems(self, forwarders: list[FakeForwarder], path: Path) -> None:
        env = {"HFS_USAGE_DB": str(path), "TIDB_DB_URL": "mysql://db.example/usage"}
        with ProviderManager(env, plugins=[]) as manager:
            trouble = forwarders[0].problem = Problem("it does not answer")
            assert manager.problems == [trouble]

    def test_one_that_does_not_close_stops_no_shutdown(
        self, forwarders: list[FakeForwarder], path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        env = {"HFS_USAGE_DB": "mysql://a/b", "TIDB_DB_URL": "mysql://c/d"}
        with caplog.at_level(logging.WARNING):
            ProviderManager(env, plugins=[]).shutdown()
        assert [forwarder.closed for forwarder in forwarders] == [1, 1]
        assert "did not close cleanly: the line is cut" in caplog.text


def test_rows_that_were_not_sent_can_be_sent(path: Path, tmp_path: Path) -> None:
    with ProviderManager({"HFS_USAGE_DB": str(path)}, plugins=[]) as manager:
        manager.record(ROW)
        manager.record(ROW)
    found = take_inventory({"HFS_USAGE_DB": str(path), "HFS_FORWARD_DB": f"sqlite:///{tmp_path}/all.db"}, plugins=[])
    name = f"sqlite:///{tmp_path}/all.db"
    assert send(found.settings.env, 60.0) == [Sent(name, 2, 0)]
    assert ask(tmp_path / "all.db", "SELECT count(*) FROM hfs_usage") == [(2,)]
    assert send(found.settings.env, 60.0) == [Sent(name, 0, 0)]


def test_without_a_file_there_are_none_to_send(path: Path, tmp_path: Path) -> None:
    there = {"HFS_FORWARD_DB": f"sqlite:///{tmp_path}/all.db"}
    for where in ("off", str(path)):
        assert send({"HFS_USAGE_DB": where, **there}, 5.0) == []
    assert not path.exists()


def test_why_they_cannot_be_sent_is_said(path: Path, tmp_path: Path) -> None:
    with ProviderManager({"HFS_USAGE_DB": str(path)}, plugins=[]) as manager:
        manager.record(ROW)
    env = {"HFS_USAGE_DB": str(path), "HFS_FORWARD_DB": f"sqlite:///{tmp_path}/no/such/directory.db"}
    [sent] = send(env, 5.0)
    assert (sent.rows, sent.left) == (0, 1)
    assert "usage does not reach sqlite:" in str(sent.error)
    [unread] = send(env | {"HFS_FORWARD_DB": "nowhere://host/db"}, 5.0)
    assert (unread.name, unread.rows, unread.left) == ("HFS_FORWARD_DB", 0, None)
    url = f"sqlite:///{tmp_path}/all.db"
    with try_lock(f"{path}.{fingerprint(url)}") as mine:
        # As if another process were sending them.
        assert mine
        assert send(env | {"HFS_FORWARD_DB": url}, 0.0) == [Sent(url, 0, 1, "it has not taken them within 0 s")]


def test_two_managers_of_one_process_share_what_a_key_may_do(fake_provider: Make, path: Path) -> None:
    env = {"ACME_API_KEY": "a-key-of-acme", "HFS_USAGE_DB": str(path)}
    with (
        ProviderManager(env, plugins=[fake_provider("acme")]) as first,
        ProviderManager(env, plugins=[fake_provider("acme")]) as second,
    ):
        assert storage_status(env).processes == 2
        lease = first.wrappers["acme"].pool.acquire("m")
        second.wrappers["acme"].pool.acquire("m").release()
        lease.release()
    assert storage_status(env).processes == 0


def test_a_wrapper_without_a_pool_is_left_out(fake_provider: Make, path: Path) -> None:
    # It has what the contract names, and nothing behind it.
    acme = fake_provider(
        "acme", build_wrapper=lambda *_: type("W", (), {"pool": None, "get_model": print, "close": print})()
    )
    with ProviderManager({"ACME_API_KEY": "a-key-of-acme", "HFS_USAGE_DB": str(path)}, plugins=[acme]) as manager:
        assert manager.available_providers == ["acme"]
        assert not [problem for problem in manager.problems if problem.provider is None]


def test_a_database_is_named_before_there_is_a_file(tmp_path: Path) -> None:
    env = {"HFS_USAGE_DB": str(tmp_path / "usage.db"), "TIDB_DB_URL": "mysql://me:secret@db.example/usage"}
    found = storage_status(env)
    assert [(each.name, each.behind) for each in found.targets] == [("mysql://me@db.example/usage", 0)]
    assert found.problems == ()
