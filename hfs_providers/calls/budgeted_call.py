"""A call under budgets: each request reserves its estimated cost before it is sent, and is charged its real cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from hfs_providers.calls.backend import Backend
from hfs_providers.calls.call import Call
from hfs_providers.calls.model_errors import BudgetExceededError
from hfs_providers.calls.options import CallOptions
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Event
from hfs_providers.contract.usage_row import UsageRow, asking
from hfs_providers.keys.leases import Lease
from hfs_providers.keys.ledger import reserve_in_thread
from hfs_providers.money.budgets import Budgets, Claim, OverBudget
from hfs_providers.money.prices import load_prices

_OUTPUT = 2048
"""Estimated tokens of an answer whose length is not limited."""

_CHARACTERS = 3
"""Estimated characters per token. English has more: it is safer to reserve a little too much."""

_LONGEST_OUTPUT = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_TEXTS = ("messages", "contents", "content", "input", "parts", "text", "system", "instructions", "prompt")


def new_call(
    backend: Backend,
    options: CallOptions,
    model_id: str,
    affinity: int | None,
    content: object,
    arguments: Mapping[str, Any],
) -> Call:
    """A call, under budgets if there are any.

    Args:
        backend, options, model_id, affinity: as for `Call`.
        content: the messages, or an object that has them in a field.
        arguments: the request's arguments, which may limit the length of the answer.
    """
    load_prices()
    if backend.budgets is None:
        return Call(backend, options, model_id, affinity)
    answers = _number(arguments, ("n",), 1)
    tokens_out = _number(arguments, _LONGEST_OUTPUT, _OUTPUT) * answers
    tokens_in = max(options.estimated_tokens, _characters(content) // _CHARACTERS)
    return _BudgetedCall(backend, options, model_id, affinity, backend.budgets, (tokens_in, tokens_out))


def refused_by_budgets(model: Any) -> OverBudget | None:
    """Why the budgets would refuse a usual request of a model now; None if they would not, or it does not rotate.

    Blocks as long as a reservation does.
    """
    rotation = vars(model).get("_hfs")
    budgets: Budgets | None = rotation.backend.budgets if rotation is not None else None
    if budgets is None or any(key.id in budgets.prices.free for key in rotation.backend.pool.credentials):
        return None
    tokens = rotation.options.estimated_tokens, _number(vars(model), _LONGEST_OUTPUT, _OUTPUT)
    claim = budgets.claim(rotation.backend.provider, model.id, "", asking.get(), *tokens)
    if claim is None:
        return None
    over = budgets.reserve(claim)
    if over is None:
        budgets.end(claim, None)
    return over


class _BudgetedCall(Call):
    __slots__ = ("_budgets", "_claim", "_expected", "_over")

    def __init__(
        self,
        backend: Backend,
        options: CallOptions,
        model_id: str,
        affinity: int | None,
        budgets: Budgets,
        expected: tuple[int, int],
    ) -> None:
        self._claim: Claim | None = None
        self._budgets = budgets
        # Tokens in and out.
        self._expected = expected
        # Why paid keys are not used any more.
        self._over: OverBudget | None = None
        super().__init__(backend, options, model_id, affinity)

    def __del__(self) -> None:
        # The lease was dropped, or it was released because the SDK sends its request later.
        self._give_back()

    def acquire_nowait(self) -> Lease | None:
        # Never without waiting: a reservation may wait for a file or a server.
        return None

    def acquire(self) -> Lease:
        """As its base. Raises BudgetExceededError as well."""
        while True:
            lease = super().acquire_nowait() or super().acquire()
            claim = self._claim_of(lease)
            pause = self._admit(lease, claim, claim and self._budgets.reserve(claim))
            if pause is None:
                return lease
            self.backend.sleep(pause)

    async def aacquire(self) -> Lease:
        """As `acquire`, without blocking the event loop."""
        while True:
            lease = super().acquire_nowait() or await super().aacquire()
            claim = self._claim_of(lease)
            pause = self._admit(lease, claim, claim and await self._areserve(claim))
            if pause is None:
                return lease
            await self.backend.async_sleep(pause)

    def settle(self, lease: Lease, error: BaseException) -> float | None:
        """See its base."""
        try:
            return super().settle(lease, error)
        finally:
            # Gives back the claim of a request that was never sent; `_write` has ended the others.
            self._give_back()

    def _write(self, row: UsageRow) -> None:
        claim, self._claim = self._claim, None
        cost = self._budgets.prices.cost(row)
        if cost is None and claim is not None:
            # It was sent, but its tokens are not known.
            cost = claim.nanousd
        super()._write(row._replace(cost_nanousd=cost))
        if claim is not None:
            self._budgets.end(claim, cost, recorded=self.backend.tracks_usage)

    def _give_back(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            self._budgets.end(claim, None)

    def _claim_of(self, lease: Lease) -> Claim | None:
        return self._budgets.claim(self.backend.provider, self.model_id, lease.key_id, asking.get(), *self._expected)

    async def _areserve(self, claim: Claim) -> OverBudget | None:
        return await reserve_in_thread(self._budgets, claim) if self._budgets.blocks else self._budgets.reserve(claim)

    def _admit(self, lease: Lease, claim: Claim | None, over: OverBudget | None) -> float | None:
        """Let the request be sent (None), or return the seconds after which to ask the budgets again.

        Raises:
            BudgetExceededError: that would be too late for this call.
        """
        if over is None:
            self._claim = claim
            return None
        lease.release()
        pause = self._budgets.seconds_until(over)
        if self.options.wait and pause <= self._deadline - self.backend.services.clock():
            return pause
        self._over = over
        if not self._leave_paid_keys():
            self._exceeded(over, None)
        return 0.0

    def _exhausted(self, error: PoolExhaustedError) -> NoReturn:
        if self._over is not None:
            self._exceeded(self._over, error)
        super()._exhausted(error)

    def _exceeded(self, over: OverBudget, error: PoolExhaustedError | None) -> NoReturn:
        seconds = self._budgets.seconds_until(over)
        exceeded = BudgetExceededError(over, self.backend.provider, self.model_id, seconds, self._attempts)
        about: dict[str, Any] = {"reason": str(over), "seconds": exceeded.free_in, "call_id": self.trace.id}
        self.backend.services.emit(Event("budget_exceeded", exceeded.provider, self.model_id, **about))
        cause, self._cause = self._cause or error, None
        raise exceeded from cause

    def _leave_paid_keys(self) -> bool:
        """Use only keys that cost nothing from now on. Returns whether there are any."""
        keys = {credential.id for credential in self.backend.pool.credentials}
        paid = keys - self._budgets.prices.free
        if self.options.key_id is not None or paid == keys or paid <= self._tried:
            return False
        self._tried |= paid
        return True


def _number(arguments: Mapping[str, Any], names: Sequence[str], otherwise: int) -> int:
    """The first of these arguments that is a positive number. The caller may have passed anything."""
    values = (arguments.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), otherwise)


def _characters(content: object) -> int:
    """The characters of the texts in messages, of Agno or of an API. They may have any form, and be nested deeply."""
    found, left = 0, [content]
    while left:
        each = left.pop()
        if isinstance(each, str):
            found += len(each)
        elif isinstance(each, Mapping):
            left.extend(each.get(name) for name in _TEXTS)
        elif isinstance(each, list | tuple):
            left.extend(each)
        elif isinstance(inner := getattr(each, "content", None), str | list):
            left.append(inner)
    return found
