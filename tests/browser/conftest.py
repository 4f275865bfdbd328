"""JupyterLab in a headless Chromium, on a server and a root folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from integration.jupyter_servers import JupyterServer, until

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
SECONDS = 60


@pytest.fixture(scope="session")
def chromium():
    from playwright import sync_api  # only where the lane is not skipped

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Lab:
    """One JupyterLab whose pages look light or dark."""

    def __init__(self, server: JupyterServer, chromium: Any, settings: Path) -> None:
        self.server = server
        self._chromium = chromium
        self._settings = settings

    def open(self, cells: list[str], theme: str = "Light") -> Notebook:
        """A new notebook of these cells in a new page, its kernel idle."""
        self._settings.mkdir(parents=True, exist_ok=True)
        for name, text in (("themes", {"theme": f"JupyterLab {theme}"}), ("notification", {"fetchNews": "false"})):
            (self._settings / f"{name}.jupyterlab-settings").write_text(json.dumps(text))
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=KERNEL)
        name = f"{len(list(self.server.root.iterdir()))}.ipynb"
        nbformat.write(made, self.server.root / name)
        book = self.show(name)
        # Before the kernel is there, Run asks which one.
        book.page.wait_for_selector("text=/Python 3.* . Idle/")
        return book

    def show(self, name: str) -> Notebook:
        """A notebook of the root folder in a new page."""
        return Notebook(self, name, self._chromium.new_page(viewport={"width": 1200, "height": 1100}))


class Notebook:
    """An open notebook. `errors` are those of the page's scripts."""

    def __init__(self, lab: Lab, name: str, page: Any) -> None:
        self.path = lab.server.root / name
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(SECONDS * 1000)
        page.goto(f"{lab.server.url}lab/tree/{name}?token={lab.server.token}&reset")

    def run_all(self) -> None:
        self.page.get_by_role("menuitem", name="Run").click()
        self.page.get_by_text("Run All Cells", exact=True).click()

    def wait_for(self, text: str) -> None:
        self.page.wait_for_selector(f".jp-OutputArea-output >> text={text}")

    def text(self) -> str:
        """What all outputs show."""
        return "\n".join(self.page.locator(".jp-OutputArea-output").all_inner_texts())

    def saved(self) -> Any:
        """The notebook as it is on disk, saved with its outputs."""
        self.page.keyboard.press("Control+s")

        def written() -> Any:
            book = nbformat.read(self.path, 4)
            return book if any(cell.get("outputs") for cell in book.cells) else None

        return until(written, "the notebook was not saved")


@pytest.fixture(scope="session")
def open_lab(chromium, tmp_path_factory) -> Iterator[Callable[..., Lab]]:
    """Starts JupyterLab; one for each set of variables."""
    labs: dict[str, Lab] = {}

    def started(**environ: str) -> Lab:
        key = json.dumps(environ)
        if key not in labs:
            home = tmp_path_factory.mktemp("lab")
            settings = home / "config/lab/user-settings/@jupyterlab/apputils-extension"
            labs[key] = Lab(JupyterServer("JupyterLab", home, environ), chromium, settings)
        return labs[key]

    yield started
    for lab in labs.values():
        lab.server.end()
