"""The notebooks in a real JupyterLab, driven by a real browser: run whole, and every widget of the last section used."""

import json
import os
import subprocess
import sys
import time

import papermill
import pytest
from PIL import Image

from hw2lib import ROOT, parameters

IDLE = "Python 3 (ipykernel) | Idle"
QUIET = {"fetchNews": "false", "checkForUpdates": False}


@pytest.fixture(scope="module")
def lab(tmp_path_factory, browser):
    """JupyterLab with both notebooks, given the smoke preset's values but for the experiments, which are loaded, and running."""
    folder, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        values = parameters.preset("smoke", path.stem) | {"experiments": "published"}
        papermill.execute_notebook(path, folder / path.name, values, kernel_name="python3", prepare_only=True)
    settings = (
        home / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    )
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(QUIET))
    own = {f"JUPYTER_{kind}_DIR": str(home) for kind in ("CONFIG", "DATA", "RUNTIME")} | {"IPYTHONDIR": str(home)}
    environment = os.environ | own | {"PYTHONPATH": str(ROOT), "HW2_RUNS": str(home / "runs")}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        "--port=0",
    ]
    command += [f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=token"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        facts, late = home / f"jpserver-{server.pid}.json", time.monotonic() + 120
        while not facts.exists():
            assert server.poll() is None and time.monotonic() < late, (home / "log").read_text()[-2000:]
            time.sleep(0.1)
        url = json.loads(facts.read_text())["url"]
        yield [Notebook(browser, url, path) for path in sorted(folder.glob("*.ipynb"))]
    finally:
        server.terminate()
        server.wait(30)


class Notebook:
    """A notebook in the browser, whose cells are being run."""

    def __init__(self, browser, url, path):
        self.path, self.said = path, []
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000})
        self.page.set_default_timeout(120_000)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.said.append(message.text))
        self.page.goto(f"{url}lab/workspaces/{path.stem}/tree/{path.name}?token=token")
        self.page.get_by_text(IDLE).wait_for()
        self.page.evaluate("() => { ran = jupyterapp.commands.execute('notebook:run-all-cells') }")

    def wait(self):
        """Until all cells have been run."""
        self.page.evaluate("() => ran")
        return self

    def cell(self, function):
        """The cell that defines a function."""
        found = self.page.locator(".jp-CodeCell", has_text=f"def {function}(")
        found.scroll_into_view_if_needed()
        return found

    def changes(self, cell, act):
        """Do something to a cell, and wait until it shows another picture."""
        addresses = "cell => [...cell.querySelectorAll('img.widget-image')].map(image => image.src)"
        before = cell.evaluate(addresses)
        act()
        there = cell.element_handle()
        differ = (
            f"([cell, before]) => {{ const now = ({addresses})(cell); return now.some(src => !before.includes(src)) }}"
        )
        self.page.wait_for_function(differ, arg=[there, before])

    def choose(self, cell, label, option):
        self.changes(cell, lambda: cell.get_by_label(label).select_option(option))

    def move(self, cell, label, key="ArrowRight"):
        """Move a slider by a key."""
        slider = cell.locator(".widget-slider", has_text=label).locator(".noUi-handle")
        self.changes(cell, lambda: slider.press(key))

    def close(self):
        """Nothing may have failed: no cell, no choice, and nothing in the browser."""
        assert not self.page.locator(".widget-html-content pre").all_inner_texts()
        self.page.get_by_text(IDLE).wait_for()
        self.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
        outputs = [output for cell in json.loads(self.path.read_text())["cells"] for output in cell.get("outputs", ())]
        assert len(outputs) > 50
        assert not [output for output in outputs if output["output_type"] == "error"]
        assert not self.said
        self.page.close()


@pytest.mark.slow
def test_the_translators_in_jupyter(lab, tmp_path):
    """In JupyterLab the first notebook runs without an error, and each of its widgets shows other pictures when used."""
    notebook = lab[0].wait()
    cell = notebook.cell("translated")
    notebook.choose(cell, "photo", "zebra 2")
    notebook.choose(cell, "way", "zebras into horses")
    Image.new("RGB", (300, 200), "orange").save(tmp_path / "own.png")
    with notebook.page.expect_file_chooser() as chooser:
        cell.get_by_role("button", name="a photo of your own").click()
    notebook.changes(cell, lambda: chooser.value.set_files(tmp_path / "own.png"))
    cell = notebook.cell("after")
    notebook.move(cell, "epoch")
    notebook.choose(cell, "weights", "of the epoch")
    notebook.choose(notebook.cell("drift"), "photo", "horse 2")
    cell = notebook.cell("fifty_steps")
    notebook.changes(cell, cell.get_by_role("button", name="Train fifty steps").click)
    notebook.changes(cell, lambda: None)  # by itself: it is being trained
    notebook.close()


@pytest.mark.slow
def test_the_codes_in_jupyter(lab):
    """The same of the second one; a code that is put in a map's place stands there."""
    notebook = lab[1].wait()
    cell = notebook.cell("code_map")
    notebook.changes(cell, cell.locator("button").nth(20).click)
    notebook.move(cell, "code there")
    assert cell.locator("button").nth(20).inner_text() == cell.locator(".widget-readout").last.inner_text()
    notebook.move(cell, "picture")
    for function, slider in (("between", "share"), ("new", "temperature"), ("new", "top k"), ("completed", "picture")):
        notebook.move(notebook.cell(function), slider)
    for function in ("new", "completed"):
        notebook.choose(notebook.cell(function), "of class", "ship")
    notebook.close()
