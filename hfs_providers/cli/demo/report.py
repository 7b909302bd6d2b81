"""The demo's closing tables, as data and as print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hfs_providers.cli import output
from hfs_providers.cli.demo.runs import Runs
from hfs_providers.cli.demo.stage import Stage
from hfs_providers.cli.table import Column

if TYPE_CHECKING:
    from hfs_providers import ProviderManager
    from hfs_providers.usage import UsageRow

_STATES = {"ready": "green", "limited": "yellow", "cooling": "yellow", "dead": "red"}


def collect(manager: ProviderManager, stage: Stage, runs: Runs) -> dict[str, Any]:
    """What happened, and how our records compare with the server's."""
    keys = []
    server: dict[str, list[int]] = {}
    recorded: dict[str, list[int]] = {}
    for provider in runs.providers:
        states = {status.id: status for status in manager.wrapper(provider).pool.statuses()}
        for key_id in stage.key_ids(provider):
            rows = [row for row in runs.rows if row.key_id == key_id]
            good = [row for row in rows if row.outcome == "ok"]
            server[key_id] = list(stage.served(key_id))
            recorded[key_id] = [len(rows), len(good)]
            keys.append(
                {
                    "provider": provider,
                    "key": key_id,
                    "plays": stage.plays(key_id),
                    "sent": len(rows),
                    "ok": len(good),
                    "rotations": runs.rotations[key_id],
                    "state": states[key_id].state,
                    "reason": states[key_id].reason,
                    "tokens": sum(row.tokens for row in rows),
                    "mean_ms": _mean_ms(good),
                }
            )
    return {
        "keys": keys,
        "agents": [
            {
                "agent": name,
                "runs": log.runs,
                "answered": log.answered,
                "served_by": [
                    {"provider": provider, "model": model, "key": key_id, "calls": count}
                    for (provider, model, key_id), count in sorted(log.served.items())
                ],
            }
            for name, log in runs.agents.items()
        ],
        "runs": sum(log.runs for log in runs.agents.values()),
        "answered": sum(log.answered for log in runs.agents.values()),
        "errors": list(runs.errors),
        "check": {"server": server, "recorded": recorded, "equal": server == recorded},
    }


def _mean_ms(rows: Sequence[UsageRow]) -> float | None:
    return round(sum(row.latency for row in rows) / len(rows) * 1000, 1) if rows else None


def show(report: Mapping[str, Any]) -> None:
    """Print the tables and the check."""
    print()
    output.print_table(
        "Keys",
        [
            "key",
            Column("simulated as", give=2, how="wrap"),
            ">requests",
            ">ok",
            Column("rotations", right=True, give=3),
            "state",
            Column("why", give=1, how="below"),
            ">tokens",
            ">mean ms",
        ],
        [
            [
                key["key"],
                key["plays"],
                key["sent"],
                key["ok"],
                key["rotations"],
                output.styled(key["state"], _STATES[key["state"]]),
                key["reason"],
                key["tokens"],
                key["mean_ms"],
            ]
            for key in report["keys"]
        ],
    )
    print()
    output.print_table(
        "Who served which agent",
        [
            "agent",
            ">runs",
            ">answered",
            Column("model", give=2, how="below"),
            Column("keys (calls)", give=1, how="wrap"),
        ],
        [row for agent in report["agents"] for row in _agent_rows(agent)],
    )
    print(f"\n{report['answered']} of {report['runs']} runs were answered, in {report['seconds']:.1f} s.")
    for error in report["errors"]:
        output.note(f"Error: {error}")
    _show_check(report["check"])


def _agent_rows(agent: Mapping[str, Any]) -> list[list[object]]:
    by_model: dict[str, list[str]] = {}
    for served in agent["served_by"]:
        model = f"{served['provider']}/{served['model']}"
        by_model.setdefault(model, []).append(f"{served['key']} ({served['calls']})")
    rows: list[list[object]] = [[" ", " ", " ", model, ", ".join(keys)] for model, keys in by_model.items()]
    rows = rows or [[" ", " ", " ", "nobody", " "]]
    rows[0][:3] = [agent["agent"], agent["runs"], agent["answered"]]
    return rows


def _show_check(check: Mapping[str, Any]) -> None:
    came, answered = (sum(counts[place] for counts in check["server"].values()) for place in (0, 1))
    if check["equal"]:
        print(f"Check: the server counted {came} requests and {answered} answers; so did we, key by key.")
        return
    output.note("Error: the server's counts differ from the calls recorded (requests, answers):")
    for key_id, counts in check["server"].items():
        if counts != check["recorded"][key_id]:
            output.note(f"  {key_id}: server {counts}, recorded {check['recorded'][key_id]}")
