"""Try one key with a real request, and apply to the pool what the answer means for the key.

invariant: a live key is tried with a lease, so no limit is exceeded. A dead key has no leases and is tried without one:
           nothing else is sent with it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hfs_providers.calls.backend import Backend
from hfs_providers.calls.retry_pauses import key_cooldown
from hfs_providers.calls.verdicts import Verdict, judge
from hfs_providers.clients.attempt import Attempt
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, KeyProbe, KeyStatus, ProbeOutcome
from hfs_providers.contract.usage_row import NO_FAILURE, Failure, UsageRow
from hfs_providers.wrapper.arguments import bound_model

if TYPE_CHECKING:
    from agno.metrics import MessageMetrics

    from hfs_providers.keys.leases import Lease

PROBE_TIMEOUT = 10.0
"""The default time that a key's probe waits for an answer, in seconds."""

RETIRED = "retired"
"""Beginning of a key's reason if its owner took it out of rotation. It is not tried, because it might work and would
then be used again."""

_ABOUT_THE_KEY = "models"
"""The name that the pool uses for a request without a model."""

_LONGEST_REASON = 200
_TOKENS = 16
"""Tokens reserved for the question and its answer of one token."""


class Probe:
    """The trial of one key; see `ProviderWrapper.probe`."""

    def __init__(self, backend: Backend, credential: Credential, timeout: float, ask: bool) -> None:
        self._backend = backend
        self._pool = backend.pool
        self._credential = credential
        self._timeout = timeout
        self._proof = backend.traits.proof
        self._asks = ask or self._proof == "completion"
        self._reserve = _TOKENS if self._asks else 0
        self._began = 0.0
        self._usage: MessageMetrics | None = None
        self._model_id = backend.serving(backend.default_model_id)

    def run(self) -> KeyProbe:
        """Try the key and apply the result to the pool."""
        while True:
            found = self._try()
            if found is not None:
                return found

    def _try(self) -> KeyProbe | None:
        """The result, or None if the model is gone and its successor must be asked."""
        lease: Lease | None = None
        before = self._status()
        if before.state == "dead" and ((before.reason or "").startswith(RETIRED) or self._account_waits()):
            return self._result("dead", before.reason, before.free_in)
        if before.state != "dead":
            asked = self._model_id if self._asks else _ABOUT_THE_KEY
            try:
                lease = self._pool.acquire(asked, self._reserve, timeout=0, key_id=self._credential.id)
            except PoolExhaustedError as error:
                return self._result("limited", self._status().reason or "its limits are used up", error.free_in)
        try:
            verdict = self._request()
            latency = time.perf_counter() - self._began
            if self._asks and (verdict is None or verdict.sent):
                self._record(latency, verdict)
            outcome, reason = self._settle(lease, verdict)
        finally:
            if lease is not None:
                lease.release()
        if verdict is not None and verdict.kind == "model_gone" and self._backend.config.default_model is None:
            successor = self._backend.replace_model(self._model_id)
            if successor is not None:
                self._model_id = successor
                return None
        status = self._status()
        if outcome == "works" and status.state in ("cooling", "limited"):
            outcome, reason = "limited", f"for {self._model_id}: {status.reason}"
        return self._result(outcome, reason, status.free_in if outcome in ("limited", "dead") else None, latency)

    def _request(self) -> Verdict | None:
        """Send the request. None if the key was accepted."""
        clients = self._backend.clients
        bound = bound_model(self._backend, self._credential, self._model_id, self._timeout)
        client = bound.__dict__[clients.client_field]
        # The first of a provider's probes imports its SDK; that is not the provider's latency.
        self._began = time.perf_counter()
        try:
            with Attempt():
                if self._asks:
                    self._usage = _one_token(bound)
                elif self._proof == "models":
                    # Some SDKs take an empty body for an empty list.
                    if next(iter(clients.model_ids(client)), None) is None:
                        return Verdict("empty", 200, None, "the list of models is empty")
                else:
                    client.get(self._proof, cast_to=object)
        except Exception as error:
            return judge(error, self._backend.traits.errors)
        return None

    def _record(self, latency: float, verdict: Verdict | None) -> None:
        backend, usage = self._backend, self._usage
        failure = NO_FAILURE
        if verdict is not None:
            cooldown = key_cooldown(0, verdict.retry_after) if verdict.kind == "rate_limited" else None
            failure = Failure(verdict.status, verdict.reason, cooldown)
        row = UsageRow.of(
            backend.provider,
            self._model_id,
            self._credential,
            "ok" if verdict is None else verdict.kind,
            counted=None if usage is None else backend.traits.usage_fields.whole(usage),
            latency=latency,
            charged=self._charged if verdict is None else 0,
            failure=failure,
        )
        backend.services.record(row)

    @property
    def _charged(self) -> int:
        return (self._usage.total_tokens if self._usage is not None else 0) or self._reserve

    def _settle(self, lease: Lease | None, verdict: Verdict | None) -> tuple[ProbeOutcome, str | None]:
        """Apply to the pool what the answer means."""
        key_id = self._credential.id
        if verdict is None:
            if lease is not None:
                lease.commit(self._charged)
            else:
                self._pool.revive(key_id)
            return "works", None
        said = verdict.reason
        words = " ".join(self._backend.redactor.scrub(verdict.message).split())[:_LONGEST_REASON]
        reason = f"{said}: {words}" if words and words != said else said
        if verdict.kind == "dead":
            if lease is not None:
                lease.dead(said, credits=verdict.credits)
            else:
                self._pool.retire(key_id, said)
            return "dead", reason
        if verdict.kind == "rate_limited":
            if lease is None:
                # A provider that rate-limits a key knows the key, so it is not dead.
                self._pool.revive(key_id)
                with suppress(PoolExhaustedError):
                    lease = self._pool.acquire(_ABOUT_THE_KEY, 0, timeout=0, key_id=key_id)
            if lease is not None:
                # If no model was asked for, the limit is the key's.
                lease.rate_limited(verdict.retry_after, verdict.scope if self._asks else "key", said)
            # 403 without a reason can be about the key, the network or the country.
            return ("unknown" if verdict.status == 403 else "limited"), reason
        if lease is not None and verdict.sent:
            lease.failed()
        return "unknown", reason

    def _status(self) -> KeyStatus:
        return next(each for each in self._pool.statuses(self._model_id) if each.id == self._credential.id)

    def _account_waits(self) -> bool:
        """Whether another key of the account has to wait. Then this one must too, although it needs no lease."""
        account, own = self._credential.account, self._credential.id
        others = {each.id for each in self._pool.credentials if each.account == account and each.id != own}
        return any(each.id in others and each.state in ("cooling", "limited") for each in self._pool.statuses())

    def _result(
        self, outcome: ProbeOutcome, reason: str | None, free_in: float | None = None, latency: float | None = None
    ) -> KeyProbe:
        return KeyProbe(self._credential.id, self._credential.fingerprint, outcome, reason, free_in, latency)


def _one_token(bound: Any) -> MessageMetrics | None:
    from agno.models.message import Message

    for name in ("max_output_tokens", "max_tokens"):
        if hasattr(bound, name):
            setattr(bound, name, 1)
            break
    response = bound.invoke([Message(role="user", content="Hi")], Message(role="assistant"))
    usage: MessageMetrics | None = response.response_usage
    return usage
