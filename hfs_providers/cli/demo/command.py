"""`demo`: real agents over simulated providers, without any API key.

JSON: `simulated` (what is), `seed`, `providers` (names), `skipped` (`provider`, `reason`, `remedy`), `keys`
(`provider`, `key`, `plays`, `sent`, `ok`, `rotations`, `state`, `reason`, `tokens`, `mean_ms`), `agents` (`agent`,
`runs`, `answered`, `served_by` (`provider`, `model`, `key`, `calls`)), `runs`, `answered`, `errors` (texts), `check`
(`server` and `recorded`, by key id the pair of requests and answers, and `equal`), `seconds`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output
from hfs_providers.cli.demo import report as reporting
from hfs_providers.cli.demo.runs import Runs
from hfs_providers.cli.demo.stage import Stage
from hfs_providers.cli.demo.watching import play_on
from hfs_providers.contract.environment import CONFIG, DISABLED, USAGE

if TYPE_CHECKING:
    from hfs_providers import ProviderManager
    from hfs_providers.core.inventory import Inventory

SIMULATED = (
    "The providers are simulated by a server on this machine, and so are their keys, limits and answers. "
    "The SDKs, the Agno agents, the sockets and the rotation of keys are real."
)


def demo(
    as_json: output.JsonOption = False,
    seed: Annotated[
        int, typer.Option("--seed", help="The seed that decides which keys are limited, dead or slow.")
    ] = 1,
    calls: Annotated[int, typer.Option("--calls", min=1, max=2000, help="The approximate number of agent runs.")] = 60,
    watched: Annotated[
        bool, typer.Option("--watch", help="Continue until stopped, and show it on the dashboard.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The dashboard's port; 0 is any free port.")
    ] = 8322,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser on the dashboard.")] = False,
) -> None:
    """Run real agents over simulated providers; needs no API key."""
    began = time.perf_counter()
    _pass_proxies_by()
    say: Callable[[str], object] = (lambda line: None) if as_json else partial(print, flush=True)
    say(SIMULATED)
    with Stage(seed) as stage:
        providers, skipped = _installed(stage.env)
        for entry in skipped:
            say(f"{entry['provider']} is skipped: {entry['reason']}. Remedy: {entry['remedy']}")
        if not providers:
            output.fail("no provider has an SDK that can be used", "pip install 'hfs-providers[all]'")
        # Built without those, or `get_any_model` would choose one that is installed but broken.
        absent = ",".join(entry["provider"] for entry in skipped)
        env = {**stage.env, DISABLED: absent}
        if watched:
            play_on({**env, CONFIG: os.devnull}, providers, seed, port, not no_open)
            return
        report = _played(env, stage, providers, calls, say)
    report = {
        "simulated": SIMULATED,
        "seed": seed,
        "providers": providers,
        "skipped": skipped,
        **report,
        "seconds": round(time.perf_counter() - began, 2),
    }
    if as_json:
        output.print_json(report)
    else:
        reporting.show(report)
        print("See it live in a browser, until you stop it: hfs-providers demo --watch")
        print(SIMULATED)
    if not report["check"]["equal"] or report["errors"]:
        raise typer.Exit(1)


def _played(
    env: Mapping[str, str], stage: Stage, providers: Sequence[str], calls: int, say: Callable[[str], object]
) -> dict[str, Any]:
    with _manager(env) as manager:
        output.set_up_agno_logging()
        runs = Runs(manager, stage, providers, say)
        remove = manager.observe(runs.observe)
        try:
            runs.play(calls)
        finally:
            remove()
        return reporting.collect(manager, stage, runs)


def _manager(env: Mapping[str, str]) -> ProviderManager:
    from hfs_providers import ProviderManager

    # The demo is the same everywhere: it reads no file of the user's, and stores nothing.
    return ProviderManager(env={**env, CONFIG: os.devnull, USAGE: "off"})


def _pass_proxies_by() -> None:
    """Send this process's requests to itself past any proxy; SDKs take proxies from the environment."""
    # Imported here: it takes 20 ms, which every other command would pay too.
    import urllib.request

    if urllib.request.getproxies() and not urllib.request.proxy_bypass("127.0.0.1"):
        own = [os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy")]
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, [*own, "127.0.0.1", "localhost"]))


def _installed(env: Mapping[str, str]) -> tuple[list[str], list[dict[str, Any]]]:
    """The providers of the demo whose SDK can be used, and why the others cannot."""
    playing: list[str] = []
    skipped: list[dict[str, Any]] = []
    with _manager(env) as manager:
        for name in Stage.PROVIDERS:
            try:
                manager.get_model(name)
            except Exception as error:
                reason, remedy = _why(manager.inventory, name, error)
                skipped.append({"provider": name, "reason": reason, "remedy": remedy})
            else:
                playing.append(name)
    return playing, skipped


def _why(take_inventory: Inventory, name: str, error: Exception) -> tuple[str, str]:
    from hfs_providers import MissingSdkError

    if isinstance(error, MissingSdkError):
        return f"its SDK {error.distribution} is not installed", error.install
    if name not in take_inventory.providers:
        return "its plugin is not loaded", "hfs-providers plugins"
    return f"{type(error).__name__}: {error}", "hfs-providers doctor"
