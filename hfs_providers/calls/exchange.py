"""A request over several keys that the caller sends itself, over HTTP or otherwise, in place of an SDK."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeVar

from hfs_providers.calls.affinity import affinity_of_body
from hfs_providers.calls.backend import Backend
from hfs_providers.calls.budgeted_call import new_call
from hfs_providers.calls.call import KeyedAttempt
from hfs_providers.calls.evidence import decoded, evidence_in
from hfs_providers.calls.options import CallOptions
from hfs_providers.calls.retry_after import lower_headers
from hfs_providers.contract.records import Credential
from hfs_providers.contract.usage_fields import Tokens
from hfs_providers.keys.leases import Lease

_T = TypeVar("_T")


class RefusedRequestError(Exception):
    """An answer whose status is not a success.

    Args:
        status: the HTTP status.
        headers: a mapping, a client's header object, or pairs.
        body: the answer's body.
    """

    def __init__(self, status: int, headers: object, body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.evidence = evidence_in(decoded(body), time.time(), status, lower_headers(headers))


class Exchange:
    """One request to a model of a provider, tried with as many keys as necessary::

        async def send(exchange):
            key = exchange.credential.secret.reveal()
            response = await client.post(url, json={"model": exchange.model_id, ...}, headers={"x-api-key": key})
            if not response.is_success:
                exchange.refuse(response.status_code, response.headers, response.content)
            return response.json()

        answer = await manager.wrapper("acme").exchange("acme-large").run(send)

    Keys, retries, verdicts on errors and usage rows work as in a rotating model's calls.

    Args:
        backend: the provider's backend.
        model_id: the model asked for.
        options: how the call is made.
        body: the request's body, in any protocol. The affinity and the cost estimate for budgets are computed from it.
    """

    __slots__ = ("_call", "_lease")

    _lease: Lease

    def __init__(self, backend: Backend, model_id: str, options: CallOptions, body: Mapping[str, Any]) -> None:
        affinity = affinity_of_body(body, options.affinity)
        self._call = new_call(backend, options, model_id, affinity, body, body)

    @property
    def credential(self) -> Credential:
        """The key of this attempt."""
        return self._lease.credential

    @property
    def model_id(self) -> str:
        """The model to ask in this attempt: the successor, if the model is a default that is gone."""
        return self._call.model_id

    @property
    def usage(self) -> Tokens | None:
        """The tokens that the provider has counted, if `send` has set them."""
        found: Tokens | None = self._call.usage
        return found

    @usage.setter
    def usage(self, usage: Tokens | None) -> None:
        self._call.usage = usage

    async def run(self, send: Callable[[Exchange], Awaitable[_T]], *, announced: bool = False) -> _T:
        """Send the request with one key after another until one is answered.

        Args:
            send: sends the request once, with `credential` and for `model_id`. When it returns, the request is
                answered. An error that it raises is judged like an SDK's error. If it is cancelled, it must end its
                request.
            announced: whether `send` calls `sending` itself when the request goes out. No request is
                recorded before that, while it connects.

        Returns:
            What `send` returned.

        Raises:
            KeysExhaustedError: no key is free in time.
            ModelCallError: the call failed for good, or would cost more than a budget has left.
        """
        call = self._call
        while True:
            async with KeyedAttempt(call) as lease:
                self._lease = lease
                call.usage = None
                if not announced:
                    call.sending(lease)
                answer = await send(self)
                call.answered(lease, call.usage)
                return answer

    def sending(self) -> None:
        """The request goes out now."""
        self._call.sending(self._lease)

    def refuse(self, status: int, headers: object, body: bytes) -> NoReturn:
        """Raise the error of an answer whose status is not a success; the arguments describe the answer."""
        raise RefusedRequestError(status, headers, body)

    def received(self, response: object) -> None:
        """Learn the limits of the key from the attribute `headers` of a successful answer.

        Optional, and cheap: only the first answer to a key is read.
        """
        if self._call.learns:
            self._call.responses.append(response)

    def passed_on(self) -> None:
        """The first part of the answer goes to the caller now, so the request is not repeated any more."""
        self._call.passed_on()
