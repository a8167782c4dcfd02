"""Chromium and WebKit for the tests of the page, driven by WebDriver through selenium."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.webkitgtk.service import Service as WebKitService

CONTROL, ENTER, ESCAPE, TAB, SPACE, RIGHT = "\ue009\ue007\ue00c\ue004\ue00d\ue014"


class Browser:
    """A browser window; start() opens it.

    Args:
        folder: an empty one, for its files and what it downloads.
    """

    needs: tuple[str, ...] = ()  # programs
    pointers = ("mouse", "touch", "pen")  # that its driver has
    driver: WebDriver

    def __init__(self, folder: Path) -> None:
        self.downloads = folder
        self.start()

    def open(self, url: str) -> None:
        self.driver.get(url)

    def js(self, body: str, *arguments: Any) -> Any:
        """Run the body of a function in the page; returns what that returns."""
        return self.driver.execute_script(body, *arguments)

    def act(self, *sources: dict[str, Any]) -> None:
        """Perform input, given as the W3C's WebDriver has it."""
        self.driver.execute("actions", {"actions": list(sources)})

    def press(self, *keys: str) -> None:
        """Press keys, and then release them."""
        down = [{"type": "keyDown", "value": key} for key in keys]
        up = [{"type": "keyUp", "value": key} for key in reversed(keys)]
        self.act({"type": "key", "id": "keys", "actions": down + up})

    def resize(self, width: int, height: int) -> None:
        """Let the page have this size, in its pixels."""
        self.driver.set_window_size(width, height)

    def close(self) -> None:
        self.driver.quit()


class Chromium(Browser):
    """Chromium, without a window."""

    needs = ("chromium", "chromedriver")

    def start(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (
            *("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"),
            *("disable-component-update", "host-resolver-rules=MAP * ~NOTFOUND"),  # offline
        ):
            options.add_argument(f"--{flag}")
        options.add_experimental_option(
            "prefs", {"download.default_directory": str(self.downloads)}
        )
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options, service)

    def cdp(self, command: str, **parameters: Any) -> Any:
        """Send a command of the Chrome DevTools Protocol."""
        return self.driver.execute("executeCdpCommand", {"cmd": command, "params": parameters})

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.cdp("Emulation.setDeviceMetricsOverride", **size)


class WebKit(Browser):
    """WebKitGTK's MiniBrowser, on a screen of its own that nobody sees."""

    needs = ("WebKitWebDriver", "Xvfb")
    pointers = ("mouse",)

    def start(self) -> None:
        words = ["Xvfb", "-displayfd", "1", "-screen", "0", "1400x1300x24", "-nolisten", "tcp"]
        self.screen = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        display = f":{self.screen.stdout.readline().strip()}"
        settings = self.downloads / ".config/user-dirs.dirs"
        settings.parent.mkdir()
        settings.write_text(f'XDG_DOWNLOAD_DIR="{self.downloads}"')
        environment = {"DISPLAY": display, "HOME": str(self.downloads)}
        service = WebKitService(shutil.which("WebKitWebDriver"), env=environment)
        self.driver = webdriver.WebKitGTK(webdriver.WebKitGTKOptions(), service)

    def close(self) -> None:
        super().close()
        self.screen.terminate()
        self.screen.wait()


BROWSERS = (Chromium, WebKit)
