"""`hfs-providers`, which says how late its threads get their turns, and at its end what its pools still hold:
`python -m tests.gateway.soak.process serve`.
"""

from __future__ import annotations

import json
from pathlib import Path

from hfs_providers import ProviderManager
from hfs_providers.cli import main
from tests.gateway.soak.turns import Turns

TURNS = "turns"
"""The file in its directory."""

_shut_down = ProviderManager.shutdown


def _told(manager: ProviderManager) -> None:
    if not manager.closed:
        counts = {name: wrapper.pool.counts("m") for name, wrapper in manager.wrappers.items()}
        held = {name: [count.in_flight, count.reserved_tokens] for name, count in counts.items()}
        print(json.dumps(held), flush=True)
    _shut_down(manager)


if __name__ == "__main__":
    ProviderManager.shutdown = _told  # type: ignore[method-assign]
    Turns(Path(TURNS)).start()
    main()
