"""What Google's quotas say: how long a refusal lasts, and for which models."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from hfs_providers.authoring import Evidence, Meaning
from hfs_providers.families.google_status import GOOGLE_ERRORS, until_pacific_midnight

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC).timestamp()
DAY = 86_400.0


@pytest.mark.parametrize(
    ("local", "hours"),
    [
        ((2026, 11, 21, 4, 0), 20.0),
        ((2026, 7, 1, 23, 0), 1.0),
        ((2026, 7, 1, 0, 0), 24.0),
        ((2026, 3, 8, 1, 0), 22.0),  # the clocks go forward: 23 hours in the day
        ((2026, 11, 1, 0, 0), 25.0),  # and back
    ],
)
def test_daily_quotas_come_back_at_midnight_in_california(local: tuple[int, ...], hours: float) -> None:
    moment = datetime(*local, tzinfo=ZoneInfo("America/Los_Angeles")).timestamp()  # type: ignore[arg-type,misc]
    assert until_pacific_midnight(moment) == hours * 3600


@pytest.mark.parametrize("now", [float("inf"), 1e300, -1e300])
def test_an_impossible_clock_waits_a_day(now: float) -> None:
    assert until_pacific_midnight(now) == DAY


def test_without_time_zone_data_midnight_is_late_rather_than_early(monkeypatch: pytest.MonkeyPatch) -> None:
    import zoneinfo

    def absent(name: str) -> None:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    summer = datetime(2026, 7, 1, 12, 0, tzinfo=UTC).timestamp()
    true = until_pacific_midnight(summer)
    monkeypatch.setattr(zoneinfo, "ZoneInfo", absent)
    assert until_pacific_midnight(summer) == true + 3600


def quota_failure(status: int, violations: list[Any]) -> Evidence:
    return Evidence(status, {"details": [{"retryDelay": "3s"}, {"violations": violations}]}, {}, "google", None, NOW)


@pytest.mark.parametrize(
    ("violations", "wait", "scope"),
    [
        ([{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}], None, "model"),
        ([{"quotaId": "GenerateRequestsPerMinutePerProject"}], None, "key"),
        ([{"quotaId": "XPerMinutePerProjectPerModel"}, {"quotaId": "YPerDayPerProjectPerModel"}], 72_000.0, "model"),
        ([{"quotaId": "XPerMinutePerProjectPerModel"}, {"quotaId": "YPerDayPerProject"}], 72_000.0, "key"),
        ([{"quotaId": "XPerMinutePerBaseModel"}], None, "model"),
        ([{"quotaValue": "0"}], DAY, "model"),
        ([{"quotaId": "XPerMinutePerModel", "quotaValue": 0}], DAY, "model"),
    ],
)
def test_a_quota_failure_says_how_long_and_for_what(violations: list[Any], wait: float | None, scope: Any) -> None:
    decide = GOOGLE_ERRORS.decide
    assert decide is not None
    assert decide(quota_failure(429, violations)) == Meaning("rate_limited", scope, retry_after=wait)
    assert decide(quota_failure(400, violations)) is None


@pytest.mark.parametrize("violations", [[], [{}], ["text"], [{"quotaId": 7, "quotaValue": None}]])
def test_a_quota_failure_that_names_no_quota_says_nothing(violations: list[Any]) -> None:
    decide = GOOGLE_ERRORS.decide
    assert decide is not None
    assert decide(quota_failure(429, violations)) is None
