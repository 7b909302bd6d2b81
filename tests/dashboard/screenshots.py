"""`python -m tests.dashboard.screenshots FOLDER`: pictures of the dashboard for the documents, with made-up data.

It needs Chromium: `HFS_TEST_CHROMIUM` is the path of chromedriver, `/usr/bin/chromedriver` if it is not set.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.dashboard.browser import DRIVER, browsing, picture, resize, use_theme
from tests.dashboard.made_up import environment, fill
from tests.dashboard.shown import Shown

SIZE = (1120, 840)


def main(folder: Path) -> None:
    """Write `dashboard-light.png` and `dashboard-dark.png`: the first page in both themes."""
    from selenium.webdriver.support.ui import WebDriverWait

    with tempfile.TemporaryDirectory() as made:
        env = environment(Path(made))
        fill(env)
        with Shown(env) as shown, browsing(DRIVER or "/usr/bin/chromedriver") as browser:
            for name, page, dark in (("light", "overview", False), ("dark", "overview", True)):
                resize(browser, *SIZE)
                use_theme(browser, dark)
                browser.get("about:blank")
                browser.get(f"{shown.url}/#{page}")
                # The capacity is measured after all else.
                WebDriverWait(browser, 60).until(lambda found: "Left this minute" in found.page_source)
                path = folder / f"dashboard-{name}.png"
                picture(browser, path)
                _shrink(path)
                print(path, path.stat().st_size)


def _shrink(path: Path) -> None:
    """Fewer colours: half the size, and nobody sees it."""
    from PIL import Image

    with Image.open(path) as found:
        smaller = found.convert("RGB").quantize(128)
    smaller.save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
