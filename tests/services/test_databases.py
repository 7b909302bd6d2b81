"""Forwarding to real servers: MariaDB (TiDB speaks MySQL) and PostgreSQL, stopped, slowed and cut in mid-run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.core.storage_status import storage_status
from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import Store
from hfs_providers.usage.forwarding import target
from hfs_providers.usage.forwarding.forwarder import Forwarder, Pace, behind
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.row_writer import write_rows
from tests.services.databases import DEADLINE, MariaDb, Postgres, Proxy, Server, proxy_to

QUICK = Pace(batch=200, linger=0.0, first=0.05, longest=0.2, taken=0.02)
SERVERS: dict[str, tuple[type[Server], str]] = {
    "mariadb": (MariaDb, "HFS_TEST_MARIADB"),
    "postgres": (Postgres, "HFS_TEST_POSTGRES"),
}
# Before the tests' empty environment takes them away.
EXECUTABLES = {variable: os.environ.get(variable) for _, variable in SERVERS.values()}


@pytest.fixture(scope="module", params=SERVERS)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    kind, variable = SERVERS[request.param]
    executable = EXECUTABLES[variable]
    if not executable:
        pytest.skip(f"needs a server of its own; set {variable} to the path of its executable to run it")
    server = kind(executable)
    yield server
    server.remove()


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    yield running
    if running._process is not None and running._process.poll() is not None:
        running.start()  # the test failed while it was down


@pytest.fixture
def database(server: Server) -> str:
    return server.make_database()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxy_to(server) as proxy:
        yield proxy


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


@contextlib.contextmanager
def forwarding(store: Store, url: str, pace: Pace = QUICK) -> Iterator[Forwarder]:
    forwarder = Forwarder(store, url, pace=pace)
    try:
        yield forwarder
    finally:
        forwarder.close()


def usage_rows(first: int, count: int) -> list[UsageRow]:
    """Rows of 3 keys and 2 models, with a token more in each."""
    return [
        UsageRow(
            *(1_760_000_000.123456 + number, "groq", f"model-{number % 2}", f"groq#{number % 3}", "0a1b2c3d"),
            *(number, 1, number + 1, 0.25, "ok", number + 1),
        )
        for number in range(first, first + count)
    ]


def write(store: Store, first: int, count: int) -> None:
    with contextlib.closing(store.connect()) as connection:
        write_rows(connection, usage_rows(first, count))


def local_sums(store: Store) -> list[Any]:
    with contextlib.closing(store.connect()) as connection:
        return connection.execute(
            "SELECT key_id, model, count(*), sum(tokens) FROM usage JOIN series ON series.id = series"
            " GROUP BY key_id, model ORDER BY key_id, model"
        ).fetchall()


def sums(server: Server, database: str) -> list[Any]:
    found = server.query(
        "SELECT key_id, model, count(*), sum(tokens) FROM hfs_usage GROUP BY key_id, model ORDER BY key_id, model",
        database,
    )
    return [(key, model, count, int(tokens)) for key, model, count, tokens in found]


def arrive(forwarder: Forwarder, store: Store) -> None:
    """Flush until a server that was away has it all."""
    deadline = time.monotonic() + DEADLINE
    while not forwarder.flush(DEADLINE):
        assert time.monotonic() < deadline, forwarder.problem
        time.sleep(0.05)
    assert not behind(store)[0].rows


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


class TestRows:
    def test_arrive_as_they_are(self, server: Server, database: str, store: Store) -> None:
        row = UsageRow(1_760_000_000.123456, "groq", "é🙂%s':x\\", "groq#1", "0a1b2c3d", 2**40, 2, 3, 1.5, "ok", 7)
        with contextlib.closing(store.connect()) as connection:
            write_rows(connection, [row])
        with forwarding(store, server.url(database)) as forwarder:
            assert forwarder.flush(DEADLINE), forwarder.problem
        columns = "source, id, provider, model, key_id, fingerprint, tokens_in, tokens_out, tokens, charged, latency"
        (found,) = server.query(f"SELECT {columns}, outcome, at FROM hfs_usage", database)
        assert found[:-1] == (*(store.source, 1, "groq", row.model, "groq#1", "0a1b2c3d", 2**40, 2, 3, 7, 1.5, "ok"),)
        # MySQL's hold the time in UTC without saying so.
        assert found[-1].replace(tzinfo=None).isoformat() == "2025-10-09T08:53:20.123456"

    def test_let_the_database_say_what_it_is(self, server: Server, database: str, store: Store) -> None:
        write(store, 1, 1)
        url = server.url(database)
        env = {"HFS_USAGE_DB": str(store.path), "TIDB_DB_URL": url}
        forwarder = Forwarder(store, url, pace=QUICK)
        assert forwarder.flush(DEADLINE)
        forwarder.close()
        product = "MariaDB" if isinstance(server, MariaDb) else "PostgreSQL"
        assert storage_status(env).summary == f"TiDB persistence: No ({product}: {forwarder.name})"

    def test_of_models_that_differ_by_case_are_told_apart(self, server: Server, database: str, store: Store) -> None:
        with contextlib.closing(store.connect()) as connection:
            write_rows(connection, [row._replace(model=name) for row in usage_rows(0, 1) for name in ("M", "m", "m")])
        with forwarding(store, server.url(database)) as forwarder:
            assert forwarder.flush(DEADLINE)
        assert sorted(row[2] for row in sums(server, database)) == [1, 2]

    def test_of_two_processes_arrive_once(self, server: Server, database: str, store: Store) -> None:
        write(store, 0, 2000)
        with forwarding(store, server.url(database)) as one, forwarding(store, server.url(database)) as two:
            one.wake()
            two.wake()
            assert one.flush(DEADLINE)
            assert two.flush(DEADLINE)
        assert sums(server, database) == local_sums(store)

    def test_as_long_as_they_can_be_go_into_one_batch(self, server: Server, database: str, store: Store) -> None:
        long = dict.fromkeys(("provider", "model", "key_id", "outcome"), "🙂" * 1000)
        with contextlib.closing(store.connect()) as connection:
            write_rows(connection, [row._replace(**long) for row in usage_rows(0, 500)])
        with forwarding(store, server.url(database), Pace(linger=0.0)) as forwarder:
            assert forwarder.flush(DEADLINE), forwarder.problem
        assert server.query("SELECT count(*) FROM hfs_usage", database) == [(500,)]

    def test_that_break_a_constraint_of_the_owners_do_not_hold_up_the_others(
        self, server: Server, database: str, store: Store
    ) -> None:
        write(store, 0, 1)
        with forwarding(store, server.url(database)) as forwarder:
            assert forwarder.flush(DEADLINE)
            server.query("ALTER TABLE hfs_usage ADD CONSTRAINT low CHECK (tokens_in <> 77)", database)
            write(store, 1, 150)
            assert forwarder.flush(DEADLINE), forwarder.problem
        assert server.query("SELECT count(*) FROM hfs_usage", database) == [(150,)]
        assert behind(store)[0].refused == 1


class TestATableOfAnOlderVersion:
    """One without the columns that came later."""

    @pytest.fixture
    def older(self, server: Server, database: str, store: Store) -> str:
        write(store, 0, 1)
        with forwarding(store, server.url(database)) as forwarder:
            assert forwarder.flush(DEADLINE), forwarder.problem
        for name in target.ADDED:
            server.query(f"ALTER TABLE hfs_usage DROP COLUMN {name}", database)
        row = usage_rows(1, 1)[0]._replace(client="web", cooled_until=1_760_000_030.5, cost_nanousd=7)
        with contextlib.closing(store.connect()) as connection:
            write_rows(connection, [row])
        return database

    def test_gets_them(self, server: Server, older: str, store: Store) -> None:
        server.allow_alter(older)
        with forwarding(store, server.url(older)) as one, forwarding(store, server.url(older)) as two:
            one.wake()
            two.wake()
            assert one.flush(DEADLINE), one.problem
            assert two.flush(DEADLINE), two.problem
        rows = server.query("SELECT id, client, cooled_until, status, cost_nanousd FROM hfs_usage ORDER BY id", older)
        (*_, instant, _, _) = rows[1]
        assert rows == [(1, None, None, None, None), (2, "web", instant, None, 7)]
        assert instant.replace(tzinfo=None).isoformat() == "2025-10-09T08:53:50.500000"
        assert behind(store)[0].lacking == ""

    def test_that_may_not_be_altered_is_sent_what_it_has(self, server: Server, older: str, store: Store) -> None:
        server.forbid_alter(older)
        url = server.url(older)
        with forwarding(store, url) as forwarder:
            assert forwarder.flush(DEADLINE), forwarder.problem
        assert sums(server, older) == local_sums(store)
        (problem,) = storage_status({"HFS_USAGE_DB": str(store.path), "HFS_FORWARD_DB": url}).problems
        assert "cooled_until, cost_nanousd" in problem.message
        assert "docs/databases.md" in str(problem.remedy)
        # Whoever owns the table adds them.
        server.allow_alter(older)
        write(store, 2, 1)
        with forwarding(store, url) as forwarder:
            assert forwarder.flush(DEADLINE), forwarder.problem
        assert storage_status({"HFS_USAGE_DB": str(store.path), "HFS_FORWARD_DB": url}).problems == ()

    def test_that_somebody_reads_for_long_is_left_as_it_is(self, server: Server, older: str, store: Store) -> None:
        server.allow_alter(older)
        url = server.url(older)
        with server.reading(older), forwarding(store, url) as forwarder:
            assert forwarder.flush(DEADLINE), forwarder.problem
        assert sums(server, older) == local_sums(store)
        assert behind(store)[0].lacking


class TestAServerThatIsAway:
    def test_at_the_start(self, server: Server, database: str, store: Store) -> None:
        server.stop()
        write(store, 0, 300)
        with forwarding(store, server.url(database)) as forwarder:
            assert not forwarder.flush(DEADLINE)
            assert behind(store)[0].rows == 300
            server.start()
            arrive(forwarder, store)
            assert forwarder.problem is None
        assert sums(server, database) == local_sums(store)

    def test_for_a_whole_life(self, server: Server, database: str, store: Store) -> None:
        server.stop()
        with forwarding(store, server.url(database)) as forwarder:
            write(store, 0, 300)
            forwarder.wake()
            eventually(lambda: forwarder.problem)
        server.start()
        with forwarding(store, server.url(database)) as forwarder:
            arrive(forwarder, store)
        assert sums(server, database) == local_sums(store)

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
    def test_in_the_middle_of_a_run(self, server: Server, database: str, store: Store, how: int) -> None:
        with forwarding(store, server.url(database)) as forwarder:
            log = UsageLog(store, on_commit=forwarder.wake, group=0.001)
            for number, row in enumerate(usage_rows(0, 20_000)):
                if number == 7000:
                    assert log.flush(DEADLINE)
                    eventually(lambda: behind(store, forwarder.name)[0].rows < 7000)
                    server.stop(how if server.scheme == "postgresql" or how == signal.SIGKILL else signal.SIGTERM)
                if number == 14_000:
                    assert log.flush(DEADLINE)
                    eventually(lambda: forwarder.problem)
                    server.start()
                log.record(row)
            log.close(DEADLINE)
            arrive(forwarder, store)
        assert sum(row[2] for row in local_sums(store)) == 20_000
        assert sums(server, database) == local_sums(store)

    def test_hangs_up_on_who_was_idle(self, server: Server, database: str, store: Store) -> None:
        with forwarding(store, server.url(database)) as forwarder:
            write(store, 0, 10)
            assert forwarder.flush(DEADLINE)
            server.drop_connections(database)
            write(store, 10, 10)
            assert forwarder.flush(DEADLINE), forwarder.problem
        assert sums(server, database) == local_sums(store)


class TestANetwork:
    def test_that_is_slow_loses_nothing(self, server: Server, database: str, proxy: Proxy, store: Store) -> None:
        proxy.delay = 0.02
        with forwarding(store, server.url(database, port=proxy.port)) as forwarder:
            for first in range(0, 1000, 100):
                write(store, first, 100)
                forwarder.wake()
            arrive(forwarder, store)
        assert sums(server, database) == local_sums(store)

    def test_that_cuts_the_answer_off_has_a_batch_sent_twice_and_counted_once(
        self, server: Server, database: str, proxy: Proxy, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[int] = []
        send = target.Target.send
        monkeypatch.setattr(
            target.Target, "send", lambda self, rows: sent.extend(row["id"] for row in rows) or send(self, rows)
        )
        with forwarding(store, server.url(database, port=proxy.port)) as forwarder:
            write(store, 0, 10)
            assert forwarder.flush(DEADLINE)
            write(store, 10, 10)
            proxy.cut_after = b"COMMIT"
            arrive(forwarder, store)
        assert proxy.cuts == 1
        assert sent == [*range(1, 11), *range(11, 21), *range(11, 21)]
        assert sums(server, database) == local_sums(store)

    @pytest.mark.parametrize("connected", [True, False], ids=["in an answer", "at the start"])
    def test_that_swallows_everything_is_given_up_and_tried_again(
        self,
        server: Server,
        database: str,
        proxy: Proxy,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        connected: bool,
    ) -> None:
        monkeypatch.setattr(target, "CONNECT", 1)
        monkeypatch.setattr(target, "ANSWER", 1)
        for options in target._TIMEOUTS.values():
            for name in options:
                if name.endswith("timeout"):
                    monkeypatch.setitem(options, name, 2)
        with forwarding(store, server.url(database, port=proxy.port)) as forwarder:
            if connected:
                write(store, 0, 10)
                assert forwarder.flush(DEADLINE)
            proxy.stall()
            write(store, 10, 10)
            assert not forwarder.flush(DEADLINE)
            assert forwarder.problem is not None
            proxy.go_on()
            arrive(forwarder, store)
        assert sums(server, database) == local_sums(store)

    def test_that_swallows_everything_does_not_hold_up_the_end(
        self, server: Server, database: str, proxy: Proxy, store: Store
    ) -> None:
        proxy.stall()
        write(store, 0, 10)
        forwarder = Forwarder(store, server.url(database, port=proxy.port), pace=QUICK)
        forwarder.wake()
        ended = threading.Thread(target=forwarder.close, args=(0.2,))
        ended.start()
        ended.join(target.CONNECT / 2)
        assert not ended.is_alive()
        proxy.go_on()
        assert behind(store, forwarder.name)[0].rows == 10


class TestTls:
    @pytest.fixture
    def database(self, server: Server) -> Iterator[str]:
        """One that is reached by TLS alone, as TiDB Cloud's are."""
        name = server.make_database()
        if isinstance(server, MariaDb):
            server.query(f"ALTER USER {name}@'127.0.0.1' REQUIRE SSL")
            yield name
        else:
            server.query("DROP DATABASE IF EXISTS secure")
            server.query(f"CREATE DATABASE secure OWNER {name}")
            yield name

    def url(self, server: Server, database: str, options: str, host: str = "localhost") -> str:
        url = server.url(database, options, host=host)
        return url if isinstance(server, MariaDb) else url.replace(f"/{database}?", "/secure?")

    def test_that_is_required_refuses_a_plain_connection(self, server: Server, database: str, store: Store) -> None:
        write(store, 0, 10)
        with forwarding(store, self.url(server, database, server.plain)) as forwarder:
            assert not forwarder.flush(DEADLINE)
            assert forwarder.problem is not None
            assert "denied" in forwarder.problem.message or "rejects" in forwarder.problem.message

    def test_with_the_authoritys_certificate_works(self, server: Server, database: str, store: Store) -> None:
        write(store, 0, 10)
        with forwarding(store, self.url(server, database, server.verified)) as forwarder:
            assert forwarder.flush(DEADLINE), forwarder.problem

    @pytest.mark.parametrize(
        ("authority", "host"), [("{other}", "localhost"), ("{ca}", "127.0.0.1")], ids=["authority", "host"]
    )
    def test_refuses_a_server_that_is_another(
        self, server: Server, database: str, store: Store, authority: str, host: str
    ) -> None:
        write(store, 0, 10)
        options = server.verified.replace("{ca}", authority)
        with forwarding(store, self.url(server, database, options, host)) as forwarder:
            assert not forwarder.flush(DEADLINE)
            assert forwarder.problem is not None
            assert "certificate" in forwarder.problem.message


class TestAUser:
    def test_who_may_not_make_tables_is_told_what_to_do(self, server: Server, store: Store) -> None:
        database = server.make_database(create=False)
        write(store, 0, 10)
        with forwarding(store, server.url(database)) as forwarder:
            assert not forwarder.flush(DEADLINE)
            assert forwarder.problem is not None
            assert "no table hfs_usage" in forwarder.problem.message
            assert "docs/databases.md" in str(forwarder.problem.remedy)

    def test_whose_password_is_wrong_reads_it_nowhere(self, server: Server, database: str, store: Store) -> None:
        write(store, 0, 10)
        with forwarding(store, server.url(database).replace("s3cret", "S3CRET-not")) as forwarder:
            assert not forwarder.flush(DEADLINE)
            shown = f"{forwarder.problem} {behind(store)}"
        assert "authentication" in shown or "denied" in shown
        assert "S3CRET" not in shown
