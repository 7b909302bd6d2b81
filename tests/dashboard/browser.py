"""Debian's Chromium, headless, driven by Selenium. `HFS_TEST_CHROMIUM` is the path of its driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

DRIVER = os.environ.get("HFS_TEST_CHROMIUM")
needs_chromium = pytest.mark.skipif(not DRIVER, reason="set HFS_TEST_CHROMIUM to the path of chromedriver")

PATIENCE = 60.0
"""Seconds to wait for what is to appear: the machine may be busy."""


@contextmanager
def browsing(driver: str, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[WebDriver]:
    """A browser with a profile of its own."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    # In a container there is neither a sandbox nor much shared memory.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    for argument in (
        "--disable-background-networking",
        "--no-first-run",
        "--disable-component-update",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = Chrome(options=options, service=ChromeService(driver))
    try:
        browser.set_page_load_timeout(PATIENCE)
        browser.set_script_timeout(PATIENCE)
        resize(browser, width, height)
        use_theme(browser, dark)
        yield browser
    finally:
        browser.quit()


def resize(browser: WebDriver, width: int, height: int, scale: float = 1) -> None:
    """Make the page so large, in pixels; a window would be wider than a phone."""
    metrics: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def use_theme(browser: WebDriver, dark: bool) -> None:
    """Have the system prefer light or dark colours."""
    feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def picture(browser: WebDriver, path: Path) -> None:
    """Write what the page shows as a PNG."""
    import base64

    found = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.write_bytes(base64.b64decode(found["data"]))
