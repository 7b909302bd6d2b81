"""Database servers of the tests' own, in directories and on ports of their own, and a proxy that makes trouble."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

DEADLINE = 60.0
PASSWORD = "s3cret/§&x"
ENCODED = "s3cret%2F%C2%A7%26x"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*command: object, **options: Any) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


class Certificates:
    """An authority that exists for the tests, and a server's certificate for the name `localhost` alone."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.other_ca = folder / "ca.pem", folder / "other.pem"
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        for name in ("ca", "other"):
            run(
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
                *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"),
            )
        request, names = folder / "server.csr", folder / "names"
        names.write_text("subjectAltName=DNS:localhost\n")
        run(
            *("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
            *("-keyout", self.key, "-out", request),
        )
        run(
            *("openssl", "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", folder / "ca.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", names, "-out", self.certificate),
        )


class Server(ABC):
    """A database server that can be stopped, killed and started again on its port."""

    plain: str
    """The option of a URL for a connection without TLS."""
    verified: str
    """The options for one with TLS, whose certificate and host name are checked; `{ca}` is the authority's file."""
    scheme: str

    def __init__(self, executable: str) -> None:
        self.port = free_port()
        # Not pytest's: the path of a Unix socket is short, and another user must get in.
        self.folder = Path(tempfile.mkdtemp(prefix="hfs-db-"))
        self.executable = executable
        self.tls = Certificates(self.folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._install()
        self.start()

    @abstractmethod
    def _install(self) -> None: ...

    @abstractmethod
    def _command(self) -> Sequence[str]: ...

    @property
    @abstractmethod
    def admin(self) -> str:
        """The URL of the owner."""

    @abstractmethod
    def make_database(self, *, create: bool = True) -> str:
        """A new database with a user of its name, who may make tables or may not. Returns its name."""

    @abstractmethod
    def allow_alter(self, database: str) -> None:
        """Let the user of a database alter its table."""

    @abstractmethod
    def forbid_alter(self, database: str) -> None:
        """Let the user of a database write into its table and nothing else."""

    @abstractmethod
    def drop_connections(self, database: str) -> None:
        """Hang up on everybody but oneself, as a serverless database does after some minutes."""

    def url(self, database: str, options: str = "", *, port: int | None = None, host: str = "127.0.0.1") -> str:
        options = (options or self.plain).format(ca=self.tls.ca, other=self.tls.other_ca)
        return f"{self.scheme}://{database}:{ENCODED}@{host}:{port or self.port}/{database}?{options}"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, **self._identity())
        deadline = time.monotonic() + DEADLINE
        while not self._answers():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(DEADLINE)

    def remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def query(self, statement: str, database: str = "", **values: object) -> list[Any]:
        """What the owner sees."""
        from sqlalchemy import NullPool, create_engine, make_url, text

        url = make_url(self.admin)
        engine = create_engine(url.set(database=database or url.database), poolclass=NullPool)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            result = connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    @contextlib.contextmanager
    def reading(self, database: str) -> Iterator[None]:
        """A transaction that has read the table and goes on."""
        from sqlalchemy import NullPool, create_engine, make_url, text

        engine = create_engine(make_url(self.admin).set(database=database), poolclass=NullPool)
        with engine.connect() as connection, connection.begin():
            connection.execute(text("SELECT count(*) FROM hfs_usage"))
            yield

    def _answers(self) -> bool:
        try:
            return self.query("SELECT 1") == [(1,)]
        except Exception:  # while it starts, whatever the driver says
            return False

    def _identity(self) -> dict[str, Any]:
        return {}


class MariaDb(Server):
    scheme = "mysql"
    plain = "ssl_mode=DISABLED"
    verified = "ssl_ca={ca}&ssl_verify_cert=true&ssl_verify_identity=true"

    def _install(self) -> None:
        run(
            *("mariadb-install-db", "--no-defaults", f"--datadir={self.folder / 'data'}", "--skip-test-db"),
            *("--auth-root-authentication-method=normal", *self._user()),
        )

    def _command(self) -> Sequence[str]:
        return [
            *(self.executable, "--no-defaults", f"--datadir={self.folder / 'data'}", *self._user()),
            *(f"--port={self.port}", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"),
            *(f"--socket={self.folder / 'socket'}", f"--pid-file={self.folder / 'pid'}"),
            *("--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M"),
            *(f"--ssl-ca={self.tls.ca}", f"--ssl-cert={self.tls.certificate}", f"--ssl-key={self.tls.key}"),
        ]

    def _user(self) -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    @property
    def admin(self) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/mysql"

    def make_database(self, *, create: bool = True) -> str:
        self._databases += 1
        name = f"hfs_{self._databases}"
        self.query(f"CREATE DATABASE {name}")
        self.query(f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
        # As docs/databases.md says.
        rights = "CREATE, ALTER, INDEX, SELECT, INSERT, UPDATE" if create else "SELECT, INSERT, UPDATE"
        self.query(f"GRANT {rights} ON {name}.* TO {name}@'127.0.0.1'")
        return name

    def allow_alter(self, database: str) -> None:
        self.query(f"GRANT ALTER ON {database}.* TO {database}@'127.0.0.1'")

    def forbid_alter(self, database: str) -> None:
        self.query(f"REVOKE ALTER ON {database}.* FROM {database}@'127.0.0.1'")

    def drop_connections(self, database: str) -> None:
        for (number,) in self.query("SELECT id FROM information_schema.processlist WHERE user = :user", user=database):
            with contextlib.suppress(Exception):  # it may have hung up by itself
                self.query(f"KILL {number}")


class Postgres(Server):
    scheme = "postgresql"
    plain = "sslmode=disable"
    verified = "sslmode=verify-full&sslrootcert={ca}"

    def _install(self) -> None:
        bin_, data = Path(self.executable).resolve().parent, self.folder / "data"
        if os.geteuid() == 0:  # it refuses to be run by root
            for path in (self.folder, *self.folder.iterdir()):
                shutil.chown(path, "postgres", "postgres")
        run(bin_ / "initdb", "-D", data, "-A", "trust", "-U", "owner", "-E", "UTF8", "--no-sync", **self._identity())
        (data / "pg_hba.conf").write_text(
            "host all owner 127.0.0.1/32 trust\n"
            "hostssl all all 127.0.0.1/32 scram-sha-256\n"
            "hostnossl secure all 127.0.0.1/32 reject\n"
            "hostnossl all all 127.0.0.1/32 scram-sha-256\n"
        )

    def _command(self) -> Sequence[str]:
        options = {
            "ssl": "on",
            "ssl_cert_file": self.tls.certificate,
            "ssl_key_file": self.tls.key,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "shared_buffers": "16MB",
        }
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return [self.executable, "-D", str(self.folder / "data"), "-p", str(self.port), *settings]

    def _identity(self) -> dict[str, Any]:
        return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}

    def stop(self, number: int = signal.SIGINT) -> None:
        # SIGTERM would wait for its clients to go.
        super().stop(number)

    @property
    def admin(self) -> str:
        return f"postgresql+psycopg://owner@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def make_database(self, *, create: bool = True) -> str:
        self._databases += 1
        name = f"hfs_{self._databases}"
        self.query(f"CREATE USER {name} PASSWORD '{PASSWORD}'")
        self.query(f"CREATE DATABASE {name} OWNER {name if create else 'owner'}")
        return name

    def allow_alter(self, database: str) -> None:
        # Only its owner may.
        self.query(f"ALTER TABLE hfs_usage OWNER TO {database}", database)

    def forbid_alter(self, database: str) -> None:
        self.query("ALTER TABLE hfs_usage OWNER TO owner", database)
        self.query(f"GRANT SELECT, INSERT ON hfs_usage TO {database}", database)

    def drop_connections(self, database: str) -> None:
        self.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = :user", user=database)


class Proxy:
    """Stands between a client and a server, and stalls, slows down or cuts what passes."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.delay = 0.0
        """Seconds that each piece is held up."""
        self.cut_after: bytes | None = None
        """Have the server receive this, and the client never learn of it; once."""
        self.cuts = 0
        self._moving = threading.Event()
        self._moving.set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Accept connections and bytes, and pass on nothing."""
        self._moving.clear()

    def go_on(self) -> None:
        self._moving.set()

    def close(self) -> None:
        self._closed = True
        self._moving.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._moving.wait()
            with socket.create_connection(("127.0.0.1", self._server)) as server:
                while not self._closed:
                    for source in select.select([client, server], [], [], 1.0)[0]:
                        piece = source.recv(65536)
                        self._moving.wait()
                        time.sleep(self.delay)
                        if not piece:
                            return
                        if source is server:
                            client.sendall(piece)
                            continue
                        server.sendall(piece)
                        if self.cut_after is not None and self.cut_after in piece:
                            self.cut_after = None
                            server.recv(65536)
                            self.cuts += 1
                            return


@contextlib.contextmanager
def proxy_to(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    try:
        yield proxy
    finally:
        proxy.close()
