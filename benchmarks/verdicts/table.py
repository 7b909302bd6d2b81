"""Writes the results of a run to a file, and as tables into the document."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.verdicts.bodies import Body
from benchmarks.verdicts.judged import Judged

_BEGIN, _END = "<!-- misses: written by python -m benchmarks.verdict_bench -->", "<!-- the end of the misses -->"


@dataclass(frozen=True)
class Results:
    """The results of one run.

    Args:
        at: the date of the run.
        versions: by library.
        judged: by library and error.
    """

    at: str
    versions: Mapping[str, str]
    judged: Mapping[str, Mapping[str, Judged]]


def write_results(path: Path, results: Results) -> None:
    """Write the file."""
    path.write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")


def read_results(path: Path) -> Results:
    """Read what `write_results` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    judged = {name: {error: Judged(**row) for error, row in rows.items()} for name, rows in found["judged"].items()}
    return Results(found["at"], found["versions"], judged)


def write_document(path: Path, bodies: Sequence[Body], results: Results) -> None:
    """Write the tables between their marks in the document."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{path.name} has no place for the table: it needs the lines {_BEGIN} and {_END}")
    text = "\n\n".join([_totals(bodies, results), *_misses(bodies, results)])
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _totals(bodies: Sequence[Body], results: Results) -> str:
    lines = ["| library | right | misses: key | call | model |", "|---|---|---|---|---|"]
    for name, rows in results.judged.items():
        offered = [row for row in rows.values() if row.offered]
        right = sum(not row.misses for row in offered)
        counts = (sum(bool(getattr(row, part)) for row in offered) for part in ("key", "call", "model"))
        lines.append(
            f"| {name} {results.versions[name]} | {right} of {len(offered)} | {' | '.join(map(str, counts))} |"
        )
    return "\n".join([*lines, "", f"Run on {results.at} with {len(bodies)} errors."])


def _misses(bodies: Sequence[Body], results: Results) -> list[str]:
    sections = []
    for name, rows in results.judged.items():
        missed = [(body, rows[body.id]) for body in bodies if rows[body.id].misses]
        lines = [f"### The misses of {name}", ""]
        if missed:
            lines += ["| error | what it did |", "|---|---|"]
            lines += [
                f"| [{body.provider}]({body.source}) {body.name} | {'; '.join(row.misses)} |" for body, row in missed
            ]
        else:
            lines.append("None.")
        sections.append("\n".join(lines))
    return sections
