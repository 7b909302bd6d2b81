"""`demo --watch`: the simulated providers are asked again and again, and the dashboard shows it."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hfs_providers.cli import output
from hfs_providers.cli.dashboard import serve_dashboard
from hfs_providers.contract.environment import USAGE

if TYPE_CHECKING:
    from hfs_providers import ProviderManager

_CLIENTS = ("web", "batch", "notebook")
_PAUSES = (0.1, 0.9)
"""Seconds between two requests, at least and at most."""


def play_on(env: Mapping[str, str], providers: Sequence[str], seed: int, port: int, open_page: bool) -> None:
    """Ask the providers until SIGINT or SIGTERM, and serve the dashboard meanwhile."""
    from hfs_providers import ProviderManager
    from hfs_providers.core.inventory import take_inventory

    output.set_up_agno_logging()
    with tempfile.TemporaryDirectory(prefix="hfs-demo-") as folder:
        kept = {**env, USAGE: str(Path(folder) / "usage.db")}
        with ProviderManager(env=kept) as manager:
            ends = threading.Event()
            asking = threading.Thread(target=_ask, args=(manager, providers, random.Random(seed), ends))  # noqa: S311
            asking.start()
            try:
                serve_dashboard(
                    lambda: take_inventory(dict(kept)), lambda: nullcontext(manager), port, open_page, "demo --watch"
                )
            finally:
                ends.set()
                asking.join()


def _ask(manager: ProviderManager, providers: Sequence[str], chance: random.Random, ends: threading.Event) -> None:
    from agno.models.message import Message

    from hfs_providers import HfsProvidersError
    from hfs_providers.usage import asking

    models = [manager.get_model(name, affinity=None, timeout=1.0) for name in providers]
    while not ends.wait(chance.uniform(*_PAUSES)):
        asking.set(chance.choice(_CLIENTS))
        try:
            chance.choice(models).response(messages=[Message(role="user", content="Say hello.")])
        except HfsProvidersError:
            # All keys of a provider may be limited: the page shows why.
            continue
