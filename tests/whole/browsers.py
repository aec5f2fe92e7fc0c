"""Debian's chromium, headless, driven by selenium, and the page as its user sees it."""

import importlib.util
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest


def missing() -> str:
    """What a browser needs and this machine lacks; empty where there is all."""
    names = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    if importlib.util.find_spec("selenium") is None:
        names.append("selenium: pip install -e '.[test,browser]'")
    return ", ".join(names)


needs_chromium = pytest.mark.skipif(bool(missing()), reason=f"needs {missing()}")


SOFTWARE_WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")


def open_browser(downloads: Path, *flags: str):
    """A driver whose logs of the page and of the network are kept; without `flags` for it there is
    no WebGPU.
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    own = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage")
    for flag in (*own, *(flags or ("--disable-gpu",))):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_window_size(900, 900)
    return driver


def wait(condition, seconds: float = 30.0):
    """What `condition` gives once it is true; an element that the page has just replaced, while it
    was looked at, has told nothing.
    """
    from selenium.common.exceptions import StaleElementReferenceException

    until = time.monotonic() + seconds
    while True:
        with suppress(StaleElementReferenceException):
            if found := condition():
                return found
        assert time.monotonic() < until, "the page did not get there"
        time.sleep(0.05)


class Page:
    """A page, as its user sees it."""

    def __init__(self, browser, url: str, *, seconds: float = 30.0):
        self.browser, self.seconds = browser, seconds
        browser.get(url)
        wait(lambda: "pixels" in self.one("#about").text, seconds)

    def one(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def sources(self) -> list[str]:
        script = "return [...document.querySelectorAll('#images img')].map((image) => image.src)"
        return self.browser.execute_script(script)

    def submit(self, kind: str, count: int) -> list[str]:
        before = self.sources()
        self.one(f"#panel-{kind} > button").click()
        wait(lambda: len(self.sources()) == count and self.sources() != before, self.seconds)
        wait(lambda: " ms" in self.one("#status").text, self.seconds)
        return self.sources()

    def write(self, selector: str, text: str) -> None:
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def drag(self, selector: str, value: float | str) -> None:
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.browser.execute_script(script, self.one(selector), value)

    def check_width(self, pixels: int) -> None:
        """Nothing lies beyond the window's `pixels`."""
        script = (
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        widths = self.browser.execute_script(script)
        assert widths[0] <= widths[1] == pixels

    def picture(self, name: str) -> None:
        """A screenshot, where LAFITE_SHIFTED_SCREENSHOTS names a folder."""
        if folder := os.environ.get("LAFITE_SHIFTED_SCREENSHOTS"):
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def narrow(browser) -> None:
    """A window of 360 pixels, as a telephone's."""
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
