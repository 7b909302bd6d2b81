"""The dashboard in a real browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfs_providers import ProviderManager
from hfs_providers.contract.secret import fingerprint
from hfs_providers.testing import LoopbackServer, Unauthorized
from hfs_providers.usage import Store
from hfs_providers.usage.key_events import KeyEvent
from tests import warm
from tests.dashboard.browser import DRIVER, PATIENCE, browsing, needs_chromium, resize, use_theme
from tests.dashboard.made_up import environment
from tests.dashboard.shown import TOKEN, Shown
from tests.usage_rows import row, write

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

pytestmark = needs_chromium

AXE = os.environ.get("HFS_TEST_AXE")
PAGES = {
    "overview": "Providers, last hour",
    "keys": "groq#1",
    "live": "Requests as they end",
    "usage": "providers.groq",
}
"""By page, a text that is there once it is drawn."""


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    assert DRIVER is not None
    with browsing(DRIVER) as found:
        yield found


@pytest.fixture
def page(browser: WebDriver) -> WebDriver:
    """The browser with nothing open and nothing kept."""
    browser.get("about:blank")
    resize(browser, 1280, 900)
    use_theme(browser, dark=False)
    browser.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
    for kind in ("performance", "browser"):
        browser.get_log(kind)
    return browser


@pytest.fixture(scope="module")
def shown(made_up: dict[str, str]) -> Iterator[Shown]:
    with Shown(made_up) as found:
        yield found


def wait(page: WebDriver, until: Callable[[], Any], what: str) -> Any:
    """What `until` returns once that is true."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    # The page draws its tables anew.
    waiting = WebDriverWait(page, PATIENCE, ignored_exceptions=[StaleElementReferenceException])
    return waiting.until(lambda _: until(), what)


def see(page: WebDriver, text: str, where: str = "main") -> None:
    """Wait until the page says it."""
    wait(page, lambda: text in page.find_element("css selector", where).text, f"{text!r} is not in {where}")


def visit(page: WebDriver, shown: Shown, name: str, token: bool = False) -> None:
    """Open a page, and wait until it is drawn."""
    page.get("about:blank")
    page.get(f"{shown.url}/#{name}{f'&token={TOKEN}' if token else ''}")
    see(page, PAGES[name] if name != "usage" else "By group")


def press(page: WebDriver, selector: str, text: str) -> None:
    """Press the button that says so."""

    def pressed() -> bool:
        found = [each for each in page.find_elements("css selector", selector) if each.text == text]
        if found:
            page.execute_script("arguments[0].click()", found[0])
        return bool(found)

    wait(page, pressed, f"there is no button {text}")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_what_there_is_and_asks_nobody_else(page: WebDriver, shown: Shown, name: str) -> None:
    visit(page, shown, name)
    see(page, PAGES[name])
    wait(page, lambda: page.find_element("id", "link").text == "live", "it is not connected")
    assert [each["message"] for each in page.get_log("browser")] == []
    events = [json.loads(each["message"])["message"] for each in page.get_log("performance")]
    asked = {each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"}
    assert len(asked) > 10
    assert {url for url in asked if not url.startswith((f"{shown.url}/", "about:", "data:"))} == set()


def test_a_request_appears_as_it_ends(page: WebDriver, own: dict[str, str]) -> None:
    with Shown(own) as shown:
        visit(page, shown, "live")
        write(Store(own["HFS_USAGE_DB"]), [row(time.time(), model="a-model-just-asked", client="<b>me</b>")])
        see(page, "a-model-just-asked")
        # What comes from outside is text.
        see(page, "<b>me</b>")
        page.find_element("id", "filter").send_keys("no such thing")
        see(page, "No request matches this filter.")
        assert "a-model-just-asked" not in page.find_element("css selector", "main").text


def test_keys_are_filtered_as_one_types(page: WebDriver, shown: Shown) -> None:
    visit(page, shown, "keys")
    page.find_element("id", "q").send_keys("groq#2")
    wait(page, lambda: [each.text for each in page.find_elements("css selector", "td .open")] == ["groq#2"], "groq#2")
    assert [each.text for each in page.find_elements("css selector", "td .open")] == ["groq#2"]


def test_a_revived_key_is_seen_by_another_process(page: WebDriver, own: dict[str, str]) -> None:
    with ProviderManager(env=own) as manager:
        manager.wrapper("groq").pool.retire("groq#1", "sold at 14:02")
    with Shown(own) as shown:
        visit(page, shown, "keys", token=True)
        assert TOKEN not in page.current_url
        press(page, "td .open", "groq#1")
        # The reason is with what happened to the key.
        see(page, "sold at 14:02", "dialog .events")
        press(page, "dialog button", "Revive")
        see(page, "groq#1 is in rotation again", "#said")
        see(page, "ready", "dialog .about")
    env = {**os.environ, **own}
    said = subprocess.run(
        [warm.python(), "-m", "hfs_providers", "keys", "groq", "--json"], env=env, capture_output=True, check=True
    )
    states = {key["id"]: key["state"] for key in json.loads(said.stdout)["providers"][0]["keys"]}
    assert states["groq#1"] == "ready"


def test_a_key_is_tried_and_its_verdict_stays_to_be_read(page: WebDriver, tmp_path: Path) -> None:
    with LoopbackServer() as server:
        env = server.env({"groq": 2}) | {"HFS_USAGE_DB": str(tmp_path / "usage.db"), "HFS_CONFIG": ""}
        server.script("groq", env["GROQ_API_KEY_2"], [], then=Unauthorized(echo_key=True))
        with Shown(env) as shown:
            visit(page, shown, "keys", token=True)
            press(page, "td .open", "groq#1")
            press(page, "dialog button", "Try")
            see(page, "groq#1 works · answered in", "dialog .verdict")
            press(page, "dialog button.icon", "✕")
            press(page, "td .open", "groq#2")
            wait(page, lambda: not page.find_element("css selector", "dialog .verdict").text, "another key's verdict")
            press(page, "dialog button", "Try")
            see(page, "groq#2 is dead · invalid_api_key", "dialog .verdict")
            see(page, "dead", "dialog .about")
            assert env["GROQ_API_KEY_2"] not in page.page_source
            # The table behind it knows, too.
            wait(page, lambda: page.find_elements("css selector", "td .glyph.dead"), "the table says that it is ready")


def test_why_a_key_rested_is_found_in_the_browser(page: WebDriver, own: dict[str, str]) -> None:
    """From the first command to the answer: why did groq#3 rest at 14:02?"""
    moment = time.time() - 600
    with closing(Store(own["HFS_USAGE_DB"]).connect()) as connection:
        KeyEvent(
            moment, "groq", fingerprint(own["GROQ_API_KEY_3"]), "openai/gpt-oss-20b", "key_cooling", "tpm", moment + 95
        ).write(connection)
    command = [warm.python(), "-m", "hfs_providers", "dashboard", "--no-open", "--port", "0"]
    with subprocess.Popen(command, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            page.get(process.stdout.readline().strip())
            see(page, PAGES["overview"])
            press(page, "nav a", "Keys")
            press(page, "td .open", "groq#3")
            clock = page.execute_script("return new Date(arguments[0]).toTimeString().slice(0, 8)", moment * 1000)
            see(page, clock, "dialog .events")
            # At once, because the page draws it anew.
            events = page.execute_script(
                "return [...document.querySelectorAll('.events li')].map((each) => each.innerText)"
            )
            (said,) = [each for each in events if clock in each]
        finally:
            process.terminate()
    # When, for how long, why, and for which model.
    assert re.search(r"cools down for 2 min, until .*\n?tpm · openai/gpt-oss-20b", said), said


def test_thousands_of_keys_come_in_pages(page: WebDriver, tmp_path: Path) -> None:
    from selenium.webdriver import Keys

    def ids() -> list[str]:
        return asked("[...document.querySelectorAll('td .open')].map((each) => each.textContent)")

    # At once, because the page draws its table anew.
    def asked(said: str) -> Any:
        return page.execute_script(f"return {said}")

    env = environment(tmp_path, {"groq": 250})
    with Shown(env) as shown:
        visit(page, shown, "keys")
        see(page, "1 to 100 of 250")
        page.find_element("xpath", "//button[text()='Next']").send_keys(Keys.ENTER)
        see(page, "101 to 200 of 250")
        assert (ids()[0], ids()[-1]) == ("groq#101", "groq#200")
        # A screen reader hears which rows of how many these are.
        assert asked("document.querySelector('table.keys').ariaRowCount") == "251"
        assert asked("document.querySelector('.keys tbody tr').ariaRowIndex") == "102"
        press(page, ".pages button", "Next")
        see(page, "201 to 250 of 250")
        assert not page.find_element("xpath", "//button[text()='Next']").is_enabled()
        press(page, ".pages button", "Previous")
        see(page, "101 to 200 of 250")
        page.find_element("id", "q").send_keys("groq#2")
        # groq#2, groq#20 to groq#29, groq#200 to groq#250.
        wait(page, lambda: len(ids()) == 62, "62 keys")
        assert not page.find_element("css selector", ".pages").is_displayed()


def test_without_the_token_it_is_asked_for(page: WebDriver, own: dict[str, str]) -> None:
    with Shown(own) as shown:
        visit(page, shown, "keys")
        press(page, "td .open", "groq#1")
        see(page, "the token that the command printed", "dialog")
        page.find_element("id", "token").send_keys("wrong")
        press(page, "dialog button", "Unlock")
        press(page, "dialog button", "Retire")
        see(page, "actions need the token", "#said")
    with ProviderManager(env=own) as manager:
        assert manager.wrapper("groq").pool.statuses()[0].state == "ready"


def test_read_only_has_no_buttons(page: WebDriver, own: dict[str, str]) -> None:
    with Shown(own, read_only=True) as shown:
        visit(page, shown, "keys")
        press(page, "td .open", "groq#1")
        see(page, "read-only", "dialog")
        buttons = {each.text for each in page.find_elements("css selector", "dialog button")}
        assert not buttons & {"Retire", "Revive", "Unlock"}


def test_colours_follow_the_system_until_they_are_chosen(page: WebDriver, shown: Shown) -> None:
    def colour() -> str:
        found: str = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return found

    visit(page, shown, "overview")
    light = colour()
    use_theme(page, dark=True)
    wait(page, lambda: colour() != light, "it stays light")
    page.find_element("id", "theme").click()
    wait(page, lambda: colour() == light, "it stays dark")
    page.refresh()
    see(page, PAGES["overview"])
    assert colour() == light


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_has_no_sideways_scrolling(page: WebDriver, shown: Shown, name: str) -> None:
    resize(page, 360, 780)
    visit(page, shown, name)
    see(page, PAGES[name])
    assert page.execute_script("return document.documentElement.scrollWidth") == 360


def test_a_span_is_chosen_by_dragging(page: WebDriver, shown: Shown) -> None:
    from selenium.webdriver import ActionChains

    visit(page, shown, "usage")
    plot = wait(page, lambda: page.find_element("css selector", ".u-over"), "there is no plot")
    requests = page.find_element("css selector", ".tile .value").text
    ActionChains(page).move_to_element_with_offset(plot, -200, 0).click_and_hold().move_by_offset(
        120, 0
    ).release().perform()
    see(page, "show the whole span again")
    wait(page, lambda: page.find_element("css selector", ".tile .value").text != requests, "the sums are the same")
    press(page, "button", "show the whole span again")
    wait(page, lambda: page.find_element("css selector", ".tile .value").text == requests, "the sums are others")
    assert "show the whole span again" not in page.find_element("css selector", "main").text


def test_the_keyboard_is_enough(page: WebDriver, shown: Shown) -> None:
    from selenium.webdriver import ActionChains, Keys

    def focused() -> str:
        return str(page.switch_to.active_element.text)

    visit(page, shown, "overview")
    stops = []
    for _ in range(7):
        ActionChains(page).send_keys(Keys.TAB).perform()
        stops.append(focused())
    assert stops[:6] == ["Skip to the content", "hfs-providers", "Overview", "Keys", "Live", "Usage"]
    visit(page, shown, "keys")
    page.execute_script("document.querySelector('td .open').focus()")
    ActionChains(page).send_keys(Keys.ENTER).perform()
    see(page, "What happened", "dialog")
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    wait(page, lambda: not page.find_elements("css selector", "dialog[open]"), "it stays open")


def test_a_lost_connection_is_told_and_found_again(page: WebDriver, own: dict[str, str]) -> None:
    with Shown(own) as shown:
        visit(page, shown, "overview")
    see(page, "hfs-providers dashboard")
    assert page.find_element("id", "link").text == "not connected"


@pytest.mark.skipif(not AXE, reason="set HFS_TEST_AXE to the path of axe.min.js (npm pack axe-core)")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", [*PAGES, "key"])
def test_axe_finds_no_violation(page: WebDriver, shown: Shown, name: str, dark: bool) -> None:
    use_theme(page, dark)
    visit(page, shown, "keys" if name == "key" else name, token=True)
    if name == "key":
        press(page, "td .open", "groq#3")
        see(page, "Last requests", "dialog")
    assert AXE is not None
    page.execute_script(Path(AXE).read_text(encoding="utf-8"))
    found = page.execute_async_script("axe.run(document).then(arguments[arguments.length - 1])")
    assert found["passes"]
    told = [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found["violations"]]
    assert told == []
