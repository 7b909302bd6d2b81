"""`check`: tries every key with a real request, many at a time.

JSON: `complete` (false if it was interrupted), `seconds`, `totals` (`keys`, `works`, `limited`, `dead`, `unknown`,
`untried`), `providers` (`name`, `error` (why it could not be tried at all, or null), `proof`, `totals`, `keys` (`id`,
`fingerprint`, `outcome` (null if it was not tried), `reason`, `free_in` (seconds, or null), `until` (ISO, or null),
`latency` (seconds; null if no request was sent))). With `--dry-run`: `providers` (`name`, `error`, `keys`, `proof`,
`requests`, `tokens`) and `requests`, `tokens`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output, spans
from hfs_providers.cli.models import known
from hfs_providers.cli.status import first_step
from hfs_providers.cli.table import Column

if TYPE_CHECKING:
    from hfs_providers import ProviderManager
    from hfs_providers.authoring import KeyProbe, Wrapper

_OUTCOMES = {"works": "green", "limited": "yellow", "dead": "red", "unknown": "magenta"}
_TOKENS = 16
"""About what a question for one token costs."""


def check(
    providers: Annotated[list[str] | None, typer.Argument(help="Only these providers.", show_default=False)] = None,
    as_json: output.JsonOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the check would cost, and send nothing.")
    ] = False,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask each key for one token of the default model, which also tests its quota.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds to wait for each answer.")] = 10.0,
) -> None:
    """Try every key with a real request. Exit code 1 if a provider has no key that works."""
    from hfs_providers import ProviderManager

    with ProviderManager() as manager:
        names = _names(manager, providers or [])
        errors = {name: _error(manager, name) for name in names}
        wrappers = {name: manager.wrappers[name] for name in names if errors[name] is None}
        if dry_run:
            _print_costs([_cost(manager, name, errors[name], ask) for name in names], as_json)
            return
        # A key that is dead on other hosts is asked like one that is dead here.
        problem = manager.persistence.consult(manager.wrappers, dict.fromkeys(wrappers, ()))
        began = time.monotonic()
        found, complete = _tried(wrappers, timeout, ask)
        seconds = time.monotonic() - began
        records = [_record(manager, name, errors[name], found, ask) for name in names]
    if as_json:
        totals = _totals(key for record in records for key in record["keys"])
        output.print_json({"complete": complete, "seconds": round(seconds, 3), "totals": totals, "providers": records})
    else:
        _print_check(records, seconds)
    if problem is not None:
        output.note(f"What other hosts know is not included: {problem.message}")
    if not complete:
        output.note("Interrupted: the other keys were not tried.")
        raise typer.Exit(130)
    without = [record["name"] for record in records if not record["totals"]["works"]]
    if without:
        output.fail(f"no key works: {', '.join(without)}", "see the reasons above, or: hfs-providers keys")


def _names(manager: ProviderManager, wanted: Sequence[str]) -> list[str]:
    if wanted:
        return list(dict.fromkeys(known(manager.inventory, name) for name in wanted))
    names = [name for name, found in manager.inventory.providers.items() if found.config.configured]
    if not names:
        output.fail("no provider has a key", first_step(manager.inventory))
    return names


def _error(manager: ProviderManager, name: str) -> str | None:
    from hfs_providers import HfsProvidersError

    try:
        manager.wrapper(name)
    except HfsProvidersError as error:
        return str(error)
    return None


def _tried(wrappers: Mapping[str, Wrapper], timeout: float, ask: bool) -> tuple[dict[str, KeyProbe], bool]:
    """The results by key id, and whether there are all of them."""
    from hfs_providers.wrapper.check import check_keys

    found: dict[str, KeyProbe] = {}
    try:
        with output.progress(sys.stderr.isatty(), transient=True) as bar:
            task = bar.add_task("trying keys", total=sum(len(each.pool.credentials) for each in wrappers.values()))
            for _, probe in check_keys(wrappers, timeout=timeout, ask=ask):
                found[probe.id] = probe
                bar.advance(task)
    except KeyboardInterrupt:
        return found, False
    return found, True


def _record(
    manager: ProviderManager, name: str, error: str | None, found: Mapping[str, KeyProbe], ask: bool
) -> dict[str, Any]:
    credentials = manager.inventory.providers[name].config.credentials
    keys = [_key_record(each.id, each.fingerprint, found.get(each.id)) for each in credentials]
    return {"name": name, "error": error, "proof": _proof(manager, name, ask), "totals": _totals(keys), "keys": keys}


def _key_record(key_id: str, fingerprint: str, probe: KeyProbe | None) -> dict[str, Any]:
    free_in = probe.free_in if probe is not None else None
    return {
        "id": key_id,
        "fingerprint": fingerprint,
        "outcome": probe.outcome if probe is not None else None,
        "reason": probe.reason if probe is not None else None,
        "free_in": None if free_in is None else round(free_in, 3),
        "until": spans.iso_in(free_in),
        "latency": round(probe.latency, 4) if probe is not None and probe.latency is not None else None,
    }


def _totals(keys: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    counted = Counter(key["outcome"] for key in keys)
    return {"keys": counted.total(), **{name: counted[name] for name in _OUTCOMES}, "untried": counted[None]}


def _proof(manager: ProviderManager, name: str, ask: bool) -> str:
    """The request that is sent with each key, in words."""
    from hfs_providers.wrapper.wrapper import ProviderWrapper

    wrapper: object = manager.wrappers.get(name)
    # A plugin's own wrapper does not state it.
    proof = wrapper.backend.traits.proof if isinstance(wrapper, ProviderWrapper) else "completion"
    if ask or proof == "completion":
        return f"one token of {manager.default_model(name)}"
    return "the list of models" if proof == "models" else f"GET {proof}"


def _print_check(records: Sequence[Mapping[str, Any]], seconds: float) -> None:
    rows: list[list[object]] = []
    for record in records:
        for key in record["keys"]:
            outcome = key["outcome"]
            said = output.styled(outcome, _OUTCOMES[outcome]) if outcome else None
            latency = None if key["latency"] is None else f"{key['latency'] * 1000:.0f}"
            until = output.local_time(key["until"])
            rows.append([key["id"], key["fingerprint"], said, until, latency, key["reason"] or record["error"]])
    reason = Column("reason", give=1, how="below")
    output.print_table(None, ["key", Column("fingerprint", give=2), "outcome", "free at", ">ms", reason], rows)
    counts = [f">{name}" for name in ("keys", *_OUTCOMES, "untried")]
    columns: list[Column | str] = ["provider", *counts, Column("tried with", give=1, how="wrap")]
    totals = [[record["name"], *record["totals"].values(), record["proof"].removeprefix("the ")] for record in records]
    if len(records) > 1:
        together = _totals(key for record in records for key in record["keys"])
        totals.append(["all", *together.values(), f"in {seconds:.1f} s"])
    print()
    output.print_table(None, columns, totals)


def _cost(manager: ProviderManager, name: str, error: str | None, ask: bool) -> dict[str, Any]:
    keys = len(manager.inventory.providers[name].config.credentials)
    proof = _proof(manager, name, ask)
    requests = keys if error is None else 0
    tokens = requests * _TOKENS if proof.startswith("one token") else 0
    return {"name": name, "error": error, "keys": keys, "proof": proof, "requests": requests, "tokens": tokens}


def _print_costs(costs: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    requests, tokens = sum(cost["requests"] for cost in costs), sum(cost["tokens"] for cost in costs)
    if as_json:
        output.print_json({"providers": list(costs), "requests": requests, "tokens": tokens})
        return
    rows = [[cost[name] for name in ("name", "keys", "requests", "tokens", "proof", "error")] for cost in costs]
    about = [Column("tried with", give=2, how="wrap"), Column("error", give=1, how="below")]
    output.print_table(None, ["provider", ">keys", ">requests", ">tokens, about", *about], rows)
    print(f"\nAt most {requests} requests and about {tokens} tokens. Nothing was sent.")
