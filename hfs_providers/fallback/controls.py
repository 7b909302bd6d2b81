"""The attributes of a fallback chain that a caller sees, and the methods that control it by hand."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hfs_providers.calls.evidence import chain_of
from hfs_providers.fallback.config import ChainConfig, ServedBy, share_of
from hfs_providers.fallback.entry import Entry
from hfs_providers.fallback.turn import Turn, current_turn

if TYPE_CHECKING:
    from agno.models.base import Model

RECOVERABLE = frozenset(
    {
        "ReadTimeout",
        "ConnectTimeout",
        "PoolTimeout",
        "ConnectError",
        "ReadError",
        "WriteError",
        "RemoteProtocolError",
        "APIConnectionError",
        "APITimeoutError",
        # What aiohttp raises in their place.
        "ServerDisconnectedError",
        "ClientOSError",
        "ClientConnectorError",
        "ConnectionTimeoutError",
        "SocketTimeoutError",
        "ServerTimeoutError",
    }
)
"""Transport errors after which a new connection may help, by type name, anywhere along the cause chain."""

_FIRST_WAIT = 3.0
_LONGEST_WAIT = 8.0

_log = logging.getLogger("hfs_providers")


class ChainControls:
    """Mixed into the chain. It shows and changes the turn that runs in this task or thread, or ran there last."""

    _config: ChainConfig

    # Who serves

    @property
    def entries(self) -> tuple[Model, ...]:
        """The models of the chain, in order."""
        return tuple(entry.model for entry in self._config.entries)

    @property
    def primary(self) -> Model:
        """The first entry's model."""
        return self._config.entries[0].model

    @property
    def active(self) -> Model:
        """The model that serves the turn that runs in this task or thread, or that served the last one."""
        return self._config.entries[self.fallback_index].model

    @property
    def fallback_index(self) -> int:
        """The place of `active` in the chain; 0 is the primary."""
        turn = current_turn(self)
        return turn.index if turn is not None else 0

    @property
    def is_fallback_active(self) -> bool:
        """Whether `active` is not the primary."""
        return self.fallback_index > 0

    @property
    def served_by(self) -> ServedBy | None:
        """Who answered the turn that runs in this task or thread, or the last one, and why the others did not."""
        turn = current_turn(self)
        return turn.served_by if turn is not None else None

    def compaction(self, **options: Any) -> Any:
        """An Agno `Compaction` that folds a session before it outgrows the smallest window of the chain.

        Raises:
            ValueError: no entry declares a window, and no `compact_at_tokens` is given.
        """
        from agno.compaction import Compaction

        windows = [entry.window for entry in self._config.entries if entry.window is not None]
        if not windows and "compact_at_tokens" not in options:
            raise ValueError("no entry of the chain declares a context window: give compact_at_tokens")
        if windows:
            options.setdefault("compact_at_tokens", share_of(min(windows)))
        return Compaction(**options)

    # Control by hand

    def restore_primary(self) -> bool:
        """Go back to the primary in the turn that `active` shows.

        Returns:
            False if the primary is active already, or cannot answer now (which is logged). With `restore="always"`
            it is not checked whether it can.
        """
        turn = current_turn(self)
        try:
            return (turn or Turn(self, self._config)).restore()
        except Exception as error:
            _log.warning("%s is not restored: %s", self._config.entries[0].label, error)
            return False

    def close_circuit(self, index: int = 0) -> bool:
        """Close the circuit of an entry, for all chains that have it. The next call may ask it at once.

        Args:
            index: the entry's place in the chain; 0 is the primary.

        Returns:
            Whether it was open.

        Raises:
            IndexError: the chain has no such entry.
        """
        circuit = self._config.entries[index].circuit
        was_open = circuit.is_open
        circuit.succeed()
        return was_open

    def activate_fallback(self, error: BaseException | None = None) -> bool:
        """Move to the next entry in the turn that `active` shows.

        Returns:
            False if every other entry has failed in that turn.
        """
        turn = current_turn(self)
        if turn is None:
            turn = Turn(self, self._config)
            turn.remember()
        return turn.fall_back(error)

    def recover_transport(self, error: BaseException, retry_count: int = 0, max_retries: int = 3) -> bool:
        """Give the primary a new connection, and wait before a request is sent once more.

        Args:
            error: what the request failed with.
            retry_count: the failed attempts before the last one: 0 after the first. The wait is
                `min(3 + retry_count, 8)` seconds.
            max_retries: how many attempts the caller makes. Only the event shows it.

        Returns:
            False if the error is not one of the transport, the provider is an aggregator, a fallback is active, or no
            new connection could be made (which is logged).
        """
        entry = self._recoverable(error)
        if entry is None:
            return False
        try:
            entry.renew()
        except Exception as failure:
            return self._not_renewed(entry, failure)
        self._config.sleep(self._renewed(entry, retry_count, max_retries))
        return True

    async def arecover_transport(self, error: BaseException, retry_count: int = 0, max_retries: int = 3) -> bool:
        """As `recover_transport`, for the running event loop."""
        entry = self._recoverable(error)
        if entry is None:
            return False
        try:
            await entry.arenew()
        except Exception as failure:
            return self._not_renewed(entry, failure)
        await self._config.async_sleep(self._renewed(entry, retry_count, max_retries))
        return True

    def _recoverable(self, error: BaseException) -> Entry | None:
        turn = current_turn(self)
        entry = self._config.entries[0]
        away = turn is not None and turn.index > 0
        return None if away or entry.aggregator or not is_recoverable(error) else entry

    def _renewed(self, entry: Entry, retry_count: int, max_retries: int) -> float:
        """Emit the event about the new connection. Returns the seconds to wait."""
        wait = recovery_wait(retry_count)
        reason = f"new connection after failed attempt {retry_count + 1} of {max_retries}"
        self._config.tell("transport_recovered", entry, reason, wait)
        return wait

    def _not_renewed(self, entry: Entry, error: Exception) -> bool:
        _log.warning("%s gets no new connection: %s: %s", entry.label, type(error).__name__, error)
        return False


def is_recoverable(error: BaseException) -> bool:
    """Whether a new connection may help against an error, or against one that caused it."""
    return any(type(link).__name__ in RECOVERABLE for link in chain_of(error))


def recovery_wait(retry_count: int) -> float:
    """Seconds to wait before the one further try, after that many failed attempts."""
    return min(_FIRST_WAIT + retry_count, _LONGEST_WAIT)
