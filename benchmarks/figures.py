"""What is measured, and the goals: the rows of the table, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

PROVIDERS = ("cerebras", "groq", "gemini", "openrouter")

Sense = Literal["at most", "at least"]


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        id: its name in the results.
        title: its name in the table.
        goal: the value to reach.
        sense: whether the goal is a floor or a ceiling.
        unit: of goal and measurement; empty for a ratio.
    """

    id: str
    title: str
    goal: float
    sense: Sense = "at most"
    unit: str = ""

    def met(self, value: float) -> bool:
        """Whether a measurement reaches the goal."""
        return value <= self.goal if self.sense == "at most" else value >= self.goal


@dataclass
class Measured:
    """The measurement of a row.

    Args:
        id: of the row.
        value: None if it was not measured.
        low, high: quartiles of its rounds, if it has rounds.
        note: how to read it, or why it was not measured.
        alternatives: the others, measured in the same run, by name; a text says why one was not.
        details: the numbers behind it.
    """

    id: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    alternatives: dict[str, float | str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As plain data, without empty fields."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "", {})}


def from_json(data: Mapping[str, Any]) -> Measured:
    """The inverse of `Measured.as_json`; unknown fields are left out."""
    return Measured(**{name: data[name] for name in Measured.__dataclass_fields__ if name in data})


ROWS = (
    *(Row(f"call.{name}", f"sync call / bare, {name}", 1.03) for name in PROVIDERS),
    *(
        Row(f"throughput.{name}", f"async throughput, 100 in flight / bare, {name}", 1.1, "at least")
        for name in PROVIDERS
    ),
    *(Row(f"first_chunk.{name}", f"first streamed chunk / bare, {name}", 1.03) for name in PROVIDERS),
    Row("pool.5000", "acquire + commit, 110 keys, 5 000 requests each", 7.5, unit="us"),
    Row("pool.100000", "acquire + commit, 110 keys, 100 000 requests each", 7.5, unit="us"),
    Row("pool.many", "acquire + commit, 5 000 keys, 1 000 requests each", 12, unit="us"),
    Row("verdict", "finding that no key is free, 110 keys", 10, unit="us"),
    Row("affinity.cached", "cached input tokens / with one unlimited key, 100 keys", 0.95, "at least"),
    Row("affinity.refused", "calls that find no key / without affinity, tight limits", 1),
    Row("affinity.spread", "conversations per key, maximum / mean, 100 keys", 1.35),
    Row("affinity.hash", "affinity of a conversation that begins with 2 kB", 4, unit="us"),
    Row("past.429", "overhead of a key that answers 429", 1.5, unit="ms"),
    Row("past.401", "overhead of a key that answers 401", 1.5, unit="ms"),
    Row("budget.spent", "spent / budget, 2 processes, 32 calls at once", 1.0),
    Row("budget.reserve", "reserve + end under two budgets, usage file", 200, unit="us"),
    Row("gap", "longest event-loop gap while waiting for a key", 5, unit="ms"),
    Row("import", "import hfs_providers", 15, unit="ms"),
    Row("status", "hfs-providers status", 0.2, unit="s"),
    Row("history", "manager with 208 keys and 100 000 rows of history", 0.4, unit="s"),
    Row("key_file", "5 000 keys from a file, ready to serve", 1, unit="s"),
)


def rows_of(measured: Mapping[str, Measured]) -> list[Row]:
    """The rows that have a result, in the table's order."""
    return [row for row in ROWS if row.id in measured]
