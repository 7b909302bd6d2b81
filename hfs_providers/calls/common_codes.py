"""The general rules of verdicts: the meaning of HTTP statuses, and of codes that many servers share.

The codes of a single provider are in its plugin's `ErrorRules`, which is read first. docs/verdicts.md says which
server sends which code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from hfs_providers.calls.evidence import as_int, as_name
from hfs_providers.contract.error_rules import ErrorRules, Evidence, Meaning

LIMITED = Meaning("rate_limited")
DEAD = Meaning("dead")
UNPAID = Meaning("dead", credits=True)
GONE = Meaning("model_gone")
# This key's account lacks the model; another key's account may have it.
GONE_HERE = Meaning("model_gone", "key")
OVERFLOW = Meaning("context_overflow")
BAD = Meaning("bad_request")
REFUSED = Meaning("refused")
OVERLOADED = Meaning("overloaded")
SERVER = Meaning("server_error")

# The same code with another status means something else.
BY_STATUS_AND_CODE: Mapping[tuple[int, str], Meaning] = {
    # The account is suspended.
    (412, "PRECONDITION_FAILED"): UNPAID,
    (404, "api_error"): GONE,
}

# The `code` of an error object, or its `type` if that is specific (`invalid_request_error` is not: some servers send it
# for a wrong key as well).
BY_CODE: Mapping[str, Meaning] = {
    # Servers with OpenAI's protocol. `model_not_found`: the model does not exist, or the key may not use it.
    "invalid_api_key": DEAD,
    "expired_api_key": DEAD,
    "account_deactivated": DEAD,
    "authentication_error": DEAD,
    "insufficient_quota": UNPAID,
    "billing_hard_limit_reached": UNPAID,
    "billing_not_active": UNPAID,
    "billing_error": UNPAID,
    "blocked_api_access": UNPAID,
    "payment_required": UNPAID,
    "rate_limit_exceeded": LIMITED,
    "rate_limit_error": LIMITED,
    "overloaded_error": OVERLOADED,
    "model_decommissioned": GONE,
    "model_not_found": GONE_HERE,
    "model_not_active": GONE,
    "context_length_exceeded": OVERFLOW,
    "request_too_large": OVERFLOW,
    "content_policy_violation": REFUSED,
    "content_filter": REFUSED,
    "unsupported_country_region_territory": REFUSED,
    "unknown_url": BAD,
    # Each sent by one server.
    "not_found_error": GONE_HERE,
    "timeout_error": SERVER,
    "exceed_context_size_error": OVERFLOW,
    # The model is still being loaded.
    "unavailable_error": OVERLOADED,
    "exceeded_current_quota_error": UNPAID,
    "engine_overloaded_error": OVERLOADED,
    "rate_limit_reached_error": LIMITED,
    # The model does not exist, or the key may not use it.
    "resource_not_found_error": GONE_HERE,
    "Arrearage": UNPAID,
    "InvalidApiKey": DEAD,
    "AccessDenied.Unpurchased": GONE_HERE,
    "data_inspection_failed": REFUSED,
    "DataInspectionFailed": REFUSED,
    "invalid_model": GONE,
    # A deployment belongs to the resource, and so to the key.
    "DeploymentNotFound": GONE_HERE,
    "Some requested entity was not found": GONE_HERE,
    # A proxy, which also answers 401 for a model that a key may not use.
    "budget_exceeded": UNPAID,
    "expired_key": DEAD,
    "token_not_found_in_db": DEAD,
    "key_model_access_denied": GONE_HERE,
    "user_model_access_denied": GONE_HERE,
    "team_model_access_denied": GONE_HERE,
    "org_model_access_denied": GONE_HERE,
    "project_model_access_denied": GONE_HERE,
    "no_db_connection": SERVER,
    # The `Error.Code` of botocore's errors: first those of a call, then those of a request signed with a wrong key.
    "ThrottlingException": LIMITED,
    "TooManyRequestsException": LIMITED,
    "ServiceQuotaExceededException": LIMITED,
    "ModelNotReadyException": OVERLOADED,
    "ServiceUnavailableException": OVERLOADED,
    "InternalServerException": SERVER,
    "ModelErrorException": SERVER,
    "ModelStreamErrorException": SERVER,
    "ModelTimeoutException": SERVER,
    "ResourceNotFoundException": GONE_HERE,
    "ExpiredTokenException": DEAD,
    "IncompleteSignature": DEAD,
    "InvalidClientTokenId": DEAD,
    "InvalidSignatureException": DEAD,
    "MissingAuthenticationTokenException": DEAD,
    "UnrecognizedClientException": DEAD,
}

# Codes of a bad request that are also sent for a wrong key; then the answer quotes the masked key.
QUOTES_KEY = frozenset({"Client specified an invalid argument"})

# A status alone. The cause of a 403 without a reason may be the key, the model, the region or a proxy: the key pauses
# for this model, it does not die. 409 and 425 ask for another try (a lock, a replay); 408 and 499: given up
# before the answer.
BY_STATUS: Mapping[int, Meaning] = {
    401: DEAD,
    402: UNPAID,
    403: LIMITED,
    408: SERVER,
    409: SERVER,
    410: GONE,
    413: OVERFLOW,
    425: SERVER,
    429: LIMITED,
    451: REFUSED,
    498: OVERLOADED,
    499: SERVER,
    501: BAD,
    502: OVERLOADED,
    503: OVERLOADED,
    529: OVERLOADED,
}


def meaning_of(evidence: Evidence, rules: ErrorRules) -> tuple[Meaning, str | None]:
    """What an answer means by its provider's rules, or else by the general ones; and the code or type that decided."""
    said = next((name for name in map(as_name, _names(evidence, *rules.fields, "code", "type")) if name), None)
    if rules.decide is not None:
        with suppress(Exception):  # a plugin's own function
            decided = rules.decide(evidence)
            if isinstance(decided, Meaning):
                return decided, said
    for table, key, name in _questions(evidence, rules):
        if key in table:
            return table[key], name or said
    return _by_status(evidence), said


_Table = Mapping[Any, Meaning]


def _questions(evidence: Evidence, rules: ErrorRules) -> Iterator[tuple[_Table, object, str | None]]:
    """The lookups in their order: a table, the key in it, and the code for the verdict."""
    status, codes = evidence.status, list(_names(evidence, "code", "type"))
    for path, table in rules.fields.items():
        for name in _names(evidence, path):
            yield table, name, name
    for code in codes:
        yield rules.codes, code, code
    yield rules.statuses, status, None
    for code in codes:
        yield BY_STATUS_AND_CODE, (status, code), code
    for code in codes:
        yield BY_CODE, code, code


def _names(evidence: Evidence, *paths: str) -> Iterator[str]:
    """The values at the paths that can be codes: texts, and numbers as text."""
    for path in paths:
        for value in evidence.values(path):
            if isinstance(value, (str, int)) and not isinstance(value, bool):
                yield str(value)[:100]


def _by_status(evidence: Evidence) -> Meaning:
    status = evidence.status
    if status is None or status < 400:
        # An error event in a stream without a code: the provider failed.
        return SERVER if status is None or status < 300 else BAD
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status == 404 and as_int(evidence.error.get("code")) == 404:
        # If the body repeats the status, the model is missing; the answer of a wrong address has no such body.
        return GONE
    return SERVER if status >= 500 else BAD
