"""`python -m tests.gateway.soak --requests 1000000`; the status is 1 if anything does not fit."""

from __future__ import annotations

import argparse
import sys

from tests.gateway.soak.run import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gateway.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no more are sent")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    report = run(Plan(given.requests, given.seconds, given.connections, given.seed))
    print(report)
    print("the books balance" if not report.wrong else "THE BOOKS DO NOT BALANCE")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
