"""A headless browser for pages on disk, or the reason why there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def opened(page: Path, width: int = 1280, height: int = 900) -> Iterator:
    """A driver that shows the page; the test is skipped where no chromium with its driver is installed."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    wait = pytest.importorskip("selenium.webdriver.support.wait")
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("no chromium with chromedriver is installed (Debian: chromium, chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = selenium.Chrome(options=options, service=selenium.ChromeService(executable_path=driver))
    try:
        # A window is never narrower than 500 pixels; a phone's width is emulated.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        running.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        running.get(page.absolute().as_uri())
        # A page of megabytes was once looked at before all of it had been read.
        whole = "return document.readyState == 'complete' && location.href != 'about:blank'"
        wait.WebDriverWait(running, 60).until(lambda driver: driver.execute_script(whole))
        yield running
    finally:
        running.quit()


def complaints(driver) -> list[str]:
    """What the browser's console holds."""
    return [entry["message"] for entry in driver.get_log("browser")]
