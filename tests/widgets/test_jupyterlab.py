"""The scheme explorer with a live kernel: JupyterLab is started, a notebook run, a block toggled; Python answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from tiny import tiny_data, tiny_net

from ean_lib import Scheme, Scorer

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 300  # seconds for a kernel to import torch on a busy machine
CELLS = (
    "import sys\n"
    f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
    "from tiny import tiny_data, tiny_net\n"
    "from ean_lib.widgets import SchemeExplorer\n"
    "explorer = SchemeExplorer(net=tiny_net('se'), data=tiny_data(), name='live', scheme='10-00-0')\n"
    "explorer",
    "print('the kernel has', explorer.scheme)",
    "explorer._scorer = lambda schemes: 1 / 0",
)


def wait_for(ready, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end, f"no {what} after {PATIENCE} s"
        time.sleep(0.3)


@pytest.fixture
def lab(tmp_path) -> Iterator[str]:
    """The address of a JupyterLab of this environment, in a folder with the notebook live.ipynb."""
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "live.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    environment = os.environ | folders | {"IPYTHONDIR": str(tmp_path / "ipython"), "OMP_NUM_THREADS": "1"}
    options = ["--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0"]
    options += ["--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url="]
    log = (tmp_path / "lab.log").open("w")
    command = [sys.executable, "-m", "jupyterlab", *options]
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, (tmp_path / "lab.log").read_text()[-2000:]
        try:
            return urllib.request.urlopen(f"{address}/api/status", timeout=5).status == 200
        except OSError:
            return False

    try:
        wait_for(answers, "JupyterLab")
        yield address
    finally:
        server.terminate()  # it ends its kernels
        server.wait(30)
        log.close()


def test_a_toggle_in_jupyterlab_is_scored_by_python(chromium, lab):
    scorer = Scorer(tiny_net("se"), tiny_data())

    def accuracy(scheme: str) -> str:
        return f"{scorer([Scheme.parse(scheme)])[0]:.2f} %"

    context = chromium.new_context(viewport={"width": 1280, "height": 4000})  # cells out of sight do not exist
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(f"{lab}/lab/tree/live.ipynb")

    def run(cell: int) -> None:
        """Until its prompt shows that the notebook has taken it: at first it may still be busy with itself."""
        box = page.locator(".jp-Notebook .jp-CodeCell").nth(cell)
        while box.locator(".jp-InputPrompt").inner_text().strip() in ("", "[ ]:"):
            box.locator(".cm-content").click()
            page.keyboard.press("Control+Enter")
            page.wait_for_timeout(1000)

    output = page.locator(".jp-OutputArea-output .ean-explorer")
    for patience in (PATIENCE / 3, PATIENCE / 3, PATIENCE):
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", state="attached")
        run(0)
        try:
            output.wait_for(timeout=1000 * patience)
            break
        except PlaywrightTimeoutError:  # a request that JupyterLab makes while it still connects can be lost
            page.reload()
    assert output.count() == 1
    assert page.locator(".ean-place").count() == 0  # the widget, not the page's form
    value = output.locator("dl > div", has_text="Accuracy in the supernet").locator("dd").first

    def shows(text: str) -> None:
        wait_for(lambda: value.inner_text() == text, f"accuracy {text}")

    shows(accuracy("10-00-0"))
    blocks = output.get_by_role("switch")
    blocks.nth(2).click()
    shows(accuracy("10-10-0"))
    page.keyboard.press("ArrowRight")  # the notebook must not take the keys
    page.keyboard.press("Space")
    assert blocks.nth(3).get_attribute("aria-checked") == "true"
    shows(accuracy("10-11-0"))
    run(1)
    page.get_by_text("the kernel has 10-11-0").wait_for()
    run(2)
    blocks.nth(4).click()
    alert = output.get_by_role("alert")
    alert.wait_for()
    assert "Python could not score 10-11-1: " in alert.inner_text()
    assert "10-11-1" not in page.url  # the address of JupyterLab is its own
    context.close()
