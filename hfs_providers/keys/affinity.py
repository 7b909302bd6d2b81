"""Which account a conversation belongs to, so that the provider finds its prompt in the cache of that account.

A consistent-hash ring: each account has many places on it, and a conversation belongs to the account whose place comes
next after its own. It keeps no state, and all processes and hosts with the same keys agree. An account that comes or
goes moves only its own conversations.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from hashlib import shake_128

from hfs_providers.keys.state import Account

# Places of an account, by the number of accounts: more of them spread conversations better and take longer to sort.
_PLACES = ((512, 256), (4_096, 32))
_LEAST_PLACES = 8
_MOST_ACCOUNTS = 8
# The low bits of a place are the index of its account.
_OWNER = (1 << 20) - 1
_ALL = (1 << 64) - 1


class AffinityRing:
    """Accounts by their places on the ring, which is built at its first use."""

    __slots__ = ("_accounts", "_places")

    def __init__(self, accounts: Sequence[Account]) -> None:
        self._accounts = accounts
        self._places: array[int] | None = None

    def walk(self, affinity: int) -> Iterator[Account]:
        """The account of a conversation, and then those to which it moves while that one is limited."""
        accounts, places = self._accounts, self._places or self._placed()
        most = len(accounts) if len(accounts) < _MOST_ACCOUNTS else _MOST_ACCOUNTS
        # Counted from the end: after the last place comes index 0, the first one.
        at = bisect_left(places, affinity & _ALL) - len(places)
        passed: list[int] = []
        while len(passed) < most:
            owner = places[at] & _OWNER
            if owner not in passed:
                yield accounts[owner]
                passed.append(owner)
            at += 1

    def _placed(self) -> array[int]:
        accounts = self._accounts
        count = next((each for most, each in _PLACES if len(accounts) <= most), _LEAST_PLACES)
        found: list[int] = []
        for index, account in enumerate(accounts):
            own = array("Q", shake_128(account.name.encode("utf-8", "surrogatepass")).digest(8 * count))
            if sys.byteorder == "big":
                own.byteswap()
            found.extend([place & ~_OWNER | index for place in own])
        self._places = places = array("Q", sorted(found))
        return places
