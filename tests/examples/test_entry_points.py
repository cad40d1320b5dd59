"""Other ways in: torch.hub, a VapourSynth script, a web page in a browser."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="PyAV is not installed")
import stfan
from support.checkout import ROOT
from support.samples import Trail, make_video

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def test_torch_hub():
    deblurrer = torch.hub.load(str(ROOT), "deblurrer", source="local", strength=0.5)
    frame = torch.rand(3, 16, 16)
    assert torch.equal(deblurrer(frame), stfan.Deblurrer(stfan.load(), strength=0.5)(frame))


class Frame:
    """A VapourSynth frame's stand-in: planes that support Python's buffers."""

    def __init__(self, planes):
        self.planes = planes

    def __getitem__(self, plane):
        return self.planes[plane]

    def copy(self):
        return Frame([plane.copy() for plane in self.planes])


def test_vapoursynth(monkeypatch):
    """As far as it goes without VapourSynth: by a stand-in for what the script calls."""
    steps = []
    core = SimpleNamespace(
        std=SimpleNamespace(ModifyFrame=lambda clip, clips, step: steps.append(step) or "clip")
    )
    monkeypatch.setitem(sys.modules, "vapoursynth", SimpleNamespace(core=core))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.delitem(sys.modules, "vapoursynth_deblur", raising=False)
    import vapoursynth_deblur

    trail = Trail()
    trail.reset()
    assert vapoursynth_deblur.deblur("clip", trail) == "clip"
    (step,) = steps
    frames = [Frame(list(np.random.default_rng(n).random((3, 4, 6), np.float32))) for n in range(3)]
    outs = [step(n, frame) for n, frame in enumerate(frames)]
    assert np.array_equal(outs[0].planes, frames[0].planes)
    assert np.allclose(outs[1][2], frames[0][2] / 3 + frames[1][2] * 2 / 3)
    with pytest.raises(ValueError, match="frame 5 was asked for, 3 comes next"):
        step(5, frames[0])
    assert np.array_equal(step(0, frames[2]).planes, frames[2].planes)


class Page:
    """A page in a browser, by Chrome's DevTools protocol."""

    def __init__(self, websocket, address):
        self._socket, self._number = websocket.create_connection(address, timeout=300), 0

    def call(self, method, **parameters):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv())).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script):
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script, what):
        for _ in range(1200):
            if found := self.run(script):
                return found
            time.sleep(0.25)
        raise AssertionError(f"no {what} in 5 minutes: {self.run('document.body.innerText')}")


@pytest.mark.long
def test_the_space_in_a_browser(tmp_path):
    """A video is uploaded, deblurred, and its frame that changed most is shown before and after."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("there is no browser")
    source = make_video(tmp_path / "in.mp4", frames=60, width=64, height=48)
    environment = os.environ | {
        "GRADIO_SERVER_PORT": "0",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "PYTHONUNBUFFERED": "1",
    }
    port = free_port()
    environment["GRADIO_SERVER_PORT"] = str(port)
    server = subprocess.Popen(
        [sys.executable, ROOT / "examples/space/app.py"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    window = subprocess.Popen(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"),
            *(
                "--remote-allow-origins=*",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--window-size=1200,1400",
            ),
            "about:blank",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/"
        wait_for(lambda: urllib.request.urlopen(url), server)
        ports = wait_for(lambda: (tmp_path / "profile" / "DevToolsActivePort").read_text(), window)
        tabs = f"http://127.0.0.1:{ports.split()[0]}/json"
        (tab,) = [one for one in json.load(urllib.request.urlopen(tabs)) if one["type"] == "page"]
        page = Page(websocket, tab["webSocketDebuggerUrl"])
        page.call("Page.enable")
        page.call("Page.navigate", url=url)
        page.wait("!!document.querySelector('#source input[type=file]')", "upload")
        root = page.call("DOM.getDocument")["root"]["nodeId"]
        field = page.call("DOM.querySelector", nodeId=root, selector="#source input[type=file]")["nodeId"]
        page.call("DOM.setFileInputFiles", nodeId=field, files=[str(source)])
        page.wait("!!document.querySelector('#source video')", "uploaded video")
        page.run("document.querySelector('#deblur').click()")
        pictures = "[...document.querySelectorAll('#slider img')].filter(i => i.naturalWidth == 64).length"
        assert page.wait(pictures, "pictures") >= 2
        said = page.wait("document.querySelector('#words textarea, #words input')?.value", "words")
        assert said.startswith("50 frames, changed by ")
        assert page.wait("!!document.querySelector('#output video')", "deblurred video")
        if shot := os.environ.get("STFAN_SCREENSHOT"):
            import base64

            with open(shot, "wb") as file:
                file.write(base64.b64decode(page.call("Page.captureScreenshot")["data"]))
    finally:
        for process in (window, server):
            process.terminate()
            process.wait()


def free_port():
    """A port that nobody listens to."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(function, process):
    """What a function returns as soon as it raises no OSError."""
    for _ in range(1200):
        try:
            return function()
        except OSError:
            assert process.poll() is None, "the process ended"
            time.sleep(0.25)
    raise AssertionError("nothing happened in 5 minutes")
