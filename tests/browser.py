"""A headless Chromium that has opened a page; skipped where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def chromium(folder: Path, content: str, *, width: int = 1280, dark: bool = False) -> Iterator[Any]:
    """A driver on a screen of this width that has loaded the content, written to `folder`, without a network."""
    webdriver = pytest.importorskip("selenium.webdriver")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium chromium-driver)")
    page = folder / "report.html"
    page.write_text(content, encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}/user"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    driver.set_script_timeout(120)
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        if dark:
            features = [{"name": "prefers-color-scheme", "value": "dark"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get(f"file://{page}")
        yield driver
    finally:
        driver.quit()


def until(driver: Any, condition: str) -> Any:
    """The value of a JavaScript expression as soon as it is true; an error after the driver's time limit."""
    script = f"""
        const done = arguments[0];
        const look = () => {{ const value = {condition}; if (value) done(value); else requestAnimationFrame(look); }};
        look();
    """
    return driver.execute_async_script(script)


def go(driver: Any, address: str) -> None:
    """Follow an address within the page."""
    driver.execute_script("location.hash = arguments[0]", address)
