"""Headless browser for pages on disk; tests are skipped with a reason if none is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def opened(page: Path | str, width: int = 1280, height: int = 900) -> Iterator:
    """Yield a driver that shows a file or an address; skip the test if Chromium or its driver is not installed."""
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
        # The minimum width of a window is 500 pixels, so smaller widths are emulated.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        running.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        running.get(page if isinstance(page, str) else page.absolute().as_uri())
        # Large pages may not have finished loading when get() returns.
        whole = "return document.readyState == 'complete' && location.href != 'about:blank'"
        wait.WebDriverWait(running, 60).until(lambda driver: driver.execute_script(whole))
        yield running
    finally:
        running.quit()


def complaints(driver) -> list[str]:
    """Return the messages in the browser's console."""
    return [entry["message"] for entry in driver.get_log("browser")]
