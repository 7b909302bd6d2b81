"""What a page of the dashboard costs in a real browser: when it paints and shows its numbers, what it requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.support.ui import WebDriverWait

from tests.dashboard.browser import browsing

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

PAGES = {
    "overview": "Left this minute",
    "keys": "Table of keys",
    "live": "Ended",
    "usage": "Mean time",
}
"""By page, a text that is there once its numbers are."""

_PATIENCE = 300.0


class Visit(NamedTuple):
    """Milliseconds until the first paint and until the numbers show; requests and their bytes, headers included."""

    painted: float
    stood: float
    requests: int
    sent: int


@contextmanager
def browser(driver: str) -> Iterator[WebDriver]:
    """A browser that waits for a busy machine."""
    with browsing(driver) as found:
        found.set_page_load_timeout(_PATIENCE)
        found.set_script_timeout(_PATIENCE)
        yield found


def visit(page: WebDriver, address: str, name: str) -> Visit:
    """Open a page with nothing cached, and wait until its numbers are shown."""
    page.get("about:blank")
    page.execute_cdp_cmd("Network.clearBrowserCache", {})
    page.get_log("performance")
    began = time.perf_counter()
    page.get(f"{address}#{name}")
    waiting = WebDriverWait(page, _PATIENCE, 0.02, [StaleElementReferenceException])
    waiting.until(lambda _: page.execute_script(_STANDS, PAGES[name]))
    stood = (time.perf_counter() - began) * 1e3
    painted = waiting.until(lambda _: page.execute_script(_PAINTED))
    return Visit(float(painted), stood, *_asked(page))


def requests_of(page: WebDriver) -> tuple[int, int]:
    """Requests since the last look, and their bytes."""
    return _asked(page)


def _asked(page: WebDriver) -> tuple[int, int]:
    events: list[dict[str, Any]] = [json.loads(each["message"])["message"] for each in page.get_log("performance")]
    ended = [each["params"] for each in events if each["method"] == "Network.loadingFinished"]
    return len(ended), int(sum(each["encodedDataLength"] for each in ended))


_STANDS = """
const main = document.getElementById("main");
return main.textContent.includes(arguments[0]) && main.querySelector("td, .tile, .empty") !== null;
"""
_PAINTED = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
