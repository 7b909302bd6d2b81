"""`capacity`: what the keys can still serve, when they run dry, and what a load would need.

JSON: `capacities`: `provider`, `model`, `keys` (that are not dead), `rate` (requests a minute in the last hour),
`tokens` (mean of a request), `minute`, `hour`, `day` (what limits still allow: `requests`, `tokens`; null is without
limit), `dry_in` (seconds until no key is free at this rate; null: not within a day), `dry_at` (ISO), `limit` (that is
used up then), `needs` (null without `--rate` and `--tokens`: `rate`, `tokens`, `limits` (`name`, `needed`, `available`;
null is unlimited), `missing_keys` (null if no key is live), `dry_in`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output, spans
from hfs_providers.cli.models import provider_named
from hfs_providers.cli.status import first_step
from hfs_providers.cli.table import Column

if TYPE_CHECKING:
    from hfs_providers.keys import Capacity, Left


def capacity(
    provider: Annotated[str | None, typer.Argument(help="Only this provider.", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Only this model, instead of the default model and those in use.", show_default=False),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Show what a load of requests needs, such as 200/min.", show_default=False)
    ] = None,
    tokens: Annotated[
        float | None, typer.Option(min=0, help="Tokens of each request of that load.", show_default=False)
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Show what the keys can still serve this minute, hour and day, and when they run dry at the present rate."""
    from hfs_providers import ProviderManager

    wanted = None if rate is None else spans.per_minute(rate, "--rate")
    with ProviderManager() as manager:
        name = None if provider is None else provider_named(manager.inventory, provider)
        if name is None and not manager.available_providers:
            output.fail("no provider can be used", first_step(manager.inventory))
        found = manager.capacity(name, model, rate=wanted, tokens=tokens)
    if as_json:
        output.print_json({"capacities": [asdict(each) | {"dry_at": spans.iso_in(each.dry_in)} for each in found]})
    else:
        _print_left(found)
        _print_needs(found)


def _print_left(found: Sequence[Capacity]) -> None:
    rows: list[list[object]] = [
        [
            *(each.provider, each.model, each.keys, f"{each.rate:.4g}", f"{each.tokens:.0f}"),
            *(_left(left) for left in (each.minute, each.hour, each.day)),
            _dry(each.dry_in) if each.rate else None,
            each.limit,
        ]
        for each in found
    ]
    columns: list[Column | str] = [
        "provider",
        Column("model", give=5, how="below"),
        Column("keys", right=True, give=3),
        ">requests/min",
        Column("tokens each", right=True, give=2),
        Column("left this minute", right=True, give=4),
        ">left this hour",
        ">left today",
        "runs dry",
        Column("limit", give=1),
    ]
    output.print_table(None, columns, rows)


def _left(left: Left) -> str:
    requests = "no limit" if left.requests is None else output.short(left.requests)
    return requests if left.tokens is None else f"{requests} ({output.short(left.tokens)} tokens)"


def _dry(seconds: float | None) -> Any:
    if seconds is None:
        return "not within a day"
    if seconds < 1:
        return output.styled("now", "red")
    return output.styled(f"{output.local_time(spans.iso_in(seconds))}", "yellow")


def _print_needs(found: Sequence[Capacity]) -> None:
    rows: list[list[object]] = []
    for each in found:
        if each.needs is None:
            continue
        for place, need in enumerate(each.needs.limits):
            first = [each.provider, each.model] if place == 0 else [" ", " "]
            there = "no limit" if need.available is None else output.short(need.available)
            rows.append([*first, need.name, output.short(need.needed), there, (need.available or 0) >= need.needed])
    needs = next((each.needs for each in found if each.needs is not None), None)
    if needs is not None:
        print(f"\nFor {needs.rate:.4g} requests a minute of {needs.tokens:.0f} tokens:")
    if rows:
        columns: list[Column | str] = ["provider", Column("model", give=1, how="below"), "limit", ">needed"]
        output.print_table(None, [*columns, ">all keys have", "enough"], rows)
    for each in found:
        if each.needs is not None:
            print(f"{each.provider} {each.model}: {_verdict(each)}")


def _verdict(each: Capacity) -> str:
    assert each.needs is not None
    missing = each.needs.missing_keys
    if missing is None:
        return "no key is live"
    if missing:
        return f"{missing} more key{'s' * (missing > 1)} with such limits would be enough"
    return "enough" if each.needs.limits else "no limit is known"
