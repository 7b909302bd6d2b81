"""Real calls through a real model while the database goes away and comes back: its rows equal the server's count.

`HFS_TEST_OUTAGE=30 pytest tests/services/test_outage.py` keeps it away for 30 s in a run of 20 000 calls.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.usage.database import Store
from hfs_providers.usage.forwarding.forwarder import Forwarder, behind
from tests.loopback_process import LoopbackProcess
from tests.services.databases import DEADLINE, MariaDb

MARIADB = os.environ.get("HFS_TEST_MARIADB", "")
AWAY = float(os.environ.get("HFS_TEST_OUTAGE") or 1)
CALLS = 20_000 if AWAY >= 30 else 1_000
THREADS = 8
MODELS = ("llama-3.3-70b-versatile", "openai/gpt-oss-120b")


@pytest.mark.skipif(not MARIADB, reason="needs a server of its own; set HFS_TEST_MARIADB to the path of mariadbd")
def test_no_row_is_lost_or_repeated(tmp_path: Path) -> None:
    server = MariaDb(MARIADB)
    try:
        database = server.make_database()
        file = tmp_path / "usage.db"
        with LoopbackProcess() as provider:
            env = {
                **provider.env({"groq": 4}),
                "GROQ_LIMITS": "none",
                "HFS_USAGE_DB": str(file),
                "TIDB_DB_URL": server.url(database),
            }
            done = threading.Semaphore(0)
            manager = ProviderManager(env=env)
            try:
                models = [manager.get_model("groq", model) for model in MODELS]

                def call(number: int) -> None:
                    models[number % 2].response(messages=[Message(role="user", content="hello")])
                    done.release()

                with ThreadPoolExecutor(THREADS) as threads:
                    calls = threads.map(call, range(CALLS))
                    for _ in range(CALLS // 4):
                        assert done.acquire(timeout=DEADLINE)
                    server.stop()
                    time.sleep(AWAY)  # the outage itself
                    server.start()
                    assert len(list(calls)) == CALLS
            finally:
                manager.shutdown()
            seen = Counter((each.fingerprint, each.model) for each in provider.seen if each.status == 200)
        store = Store(file)
        # Where the manager left before the database was back, the next one sends the rest.
        forwarder = Forwarder(store, server.url(database))
        assert forwarder.flush(DEADLINE), forwarder.problem
        forwarder.close()
        assert behind(store)[0].rows == 0
        rows = server.query(
            "SELECT fingerprint, model, count(*) FROM hfs_usage WHERE outcome = 'ok' GROUP BY fingerprint, model",
            database,
        )
        assert {(key, model): count for key, model, count in rows} == dict(seen)
        assert sum(seen.values()) == CALLS
    finally:
        server.remove()
