"""Chromium, WebKit and Firefox for the tests of the page, behind one small class.

Chromium and WebKit are driven by WebDriver through selenium. Firefox speaks WebDriver BiDi itself,
and runs with privacy.resistFingerprinting, which gives noise for what a page reads from a canvas.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import websocket
from selenium import webdriver
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.webkitgtk.service import Service as WebKitService

CONTROL, ENTER, ESCAPE, TAB, SPACE, RIGHT = "\ue009\ue007\ue00c\ue004\ue00d\ue014"


class Browser:
    """A browser window.

    Each has open(url); js(body, *arguments), which runs the body of a function in the page and
    returns what that returns; act(*sources), which performs input, given as the W3C's WebDriver has
    it; resize(width, height) of what the page can show, in its pixels; close().

    Args:
        folder: an empty one, for its files and what it downloads.
    """

    needs: tuple[str, ...] = ()  # programs
    pointers = ("mouse", "touch", "pen")  # that its driver has

    def __init__(self, folder: Path) -> None:
        self.downloads = folder
        self.start()

    def press(self, *keys: str) -> None:
        """Press keys, and then release them."""
        down = [{"type": "keyDown", "value": key} for key in keys]
        up = [{"type": "keyUp", "value": key} for key in reversed(keys)]
        self.act({"type": "key", "id": "keys", "actions": down + up})


class Selenium(Browser):
    """A browser driven through selenium."""

    driver: WebDriver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def js(self, body: str, *arguments: Any) -> Any:
        return self.driver.execute_script(body, *arguments)

    def act(self, *sources: dict[str, Any]) -> None:
        self.driver.execute("actions", {"actions": list(sources)})

    def close(self) -> None:
        self.driver.quit()


class Chromium(Selenium):
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


class WebKit(Selenium):
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

    def resize(self, width: int, height: int) -> None:
        self.driver.set_window_size(width, height)

    def close(self) -> None:
        super().close()
        self.screen.terminate()
        self.screen.wait()


class Firefox(Browser):
    """Firefox, without a window, as private as LibreWolf and Tor Browser have it."""

    needs = ("firefox-esr",)
    pointers = ("mouse", "touch")

    def start(self) -> None:
        profile = self.downloads / "profile"
        profile.mkdir()
        settings = {
            "privacy.resistFingerprinting": True,
            "browser.download.folderList": 2,  # a folder of one's choice:
            "browser.download.dir": str(self.downloads),
            # Offline: a proxy that is not there. Firefox would look for updates, studies, news.
            "network.proxy.type": 1,
            "network.proxy.socks": "127.0.0.1",
            "network.proxy.socks_port": 9,
            "network.proxy.socks_remote_dns": True,
            "network.dns.disabled": True,
        }
        lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in settings.items()]
        (profile / "user.js").write_text("\n".join(lines))
        words = ["firefox-esr", "--headless", "--no-remote", "--profile", str(profile)]
        self.process = subprocess.Popen(
            # With a page, as with the empty one it is the address bar that has the focus.
            [*words, "--remote-debugging-port", "0", "data:text/html,start"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.socket = websocket.create_connection(
            f"{self._address()}/session", suppress_origin=True, timeout=60
        )
        self.sent = 0
        self._call("session.new", capabilities={})
        tree = self._call("browsingContext.getTree")
        self.context = tree["contexts"][0]["context"]

    def _address(self) -> str:
        for line in self.process.stderr:
            if match := re.search(r"BiDi listening on (ws://\S+)", line):
                return match[1]
        raise RuntimeError("Firefox did not start")

    def _call(self, method: str, **parameters: Any) -> Any:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.sent:
            pass  # an event
        assert answer["type"] == "success", answer
        return answer["result"]

    def open(self, url: str) -> None:
        self._call("browsingContext.navigate", context=self.context, url=url, wait="complete")

    def js(self, body: str, *arguments: Any) -> Any:
        # What goes in and out are strings of JSON, as BiDi's own values are long to write.
        text = json.dumps(json.dumps(arguments))
        function = f"() => JSON.stringify((function () {{{body}}})(...JSON.parse({text})) ?? null)"
        answer = self._call(
            "script.callFunction",
            functionDeclaration=function,
            target={"context": self.context},
            awaitPromise=False,
            userActivation=True,
        )
        assert answer["type"] == "success", answer
        return json.loads(answer["result"]["value"])

    def act(self, *sources: dict[str, Any]) -> None:
        self._call("input.performActions", context=self.context, actions=list(sources))

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height}
        self._call("browsingContext.setViewport", context=self.context, viewport=size)

    def close(self) -> None:
        self._call("browser.close")
        self.socket.close()
        self.process.wait()


BROWSERS: Sequence[type[Browser]] = (Chromium, WebKit, Firefox)
