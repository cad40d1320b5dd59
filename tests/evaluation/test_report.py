"""The page: what it shows is what was computed, and a browser can read it."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from stfan import Deblurrer
from stfan.evaluation.metrics import sharpness
from stfan.evaluation.report import FRAMES, LOSSLESS, Report
from stfan.images import to_8bit, write_clip, write_image
from stfan.model import weights
from stfan.model.network import STFAN, initialise
from support import oracle

BUDGETS = (10**4, 10**5, 10**6)  # ms of virtual time; on a busy machine pictures may take longer to decode
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NAME = "</script><b>&.mp4"  # of a file that somebody might send


@pytest.fixture(scope="module")
def model():
    """An untrained network with small filters, each different from the others."""
    torch.manual_seed(0)
    model = initialise(STFAN(kernel_size=3), "identity", 0).eval()
    with torch.no_grad():
        for head in (model.align[-1], model.deblur[-1]):
            head.weight.normal_(0, 0.05)
        model.reconstruction[-1].weight.normal_(0, 0.02)
    return model


def video(frames=20, height=46, width=65):
    """Frames in which a bright disc runs over noise; neither side is a multiple of 4."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    noise = 0.5 * torch.rand(3, height, width)
    return [noise + 0.5 * ((y - 20) ** 2 + (x - 3 * t) ** 2 < 100) for t in range(frames)]


def content(path):
    """What the page's script reads."""
    page = path.read_text("utf-8")
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def picture(url):
    """A data URL as a (3, H, W) uint8 tensor."""
    kind, code = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", url).groups()
    image = Image.open(io.BytesIO(base64.b64decode(code)), formats=[kind])
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.fixture(scope="module")
def page(model, tmp_path_factory):
    """A report of a video, the frames (before, after) that it is about, and all the filters that were predicted."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("page") / "page.html"
    deblur, pairs, predicted = Deblurrer(model), [], {"align": [], "deblur": []}

    def filters(hidden, last):
        """The filters, and what their terms add up to without their signs: rounding is in proportion to it."""
        size = torch.nn.functional.conv2d(hidden.abs(), last.weight.abs(), last.bias.abs())
        return last(hidden)[0], size[0]

    handles = [
        head[-2].register_forward_hook(
            lambda _, __, output, kind=kind, last=head[-1]: predicted[kind].append(filters(output, last))
        )
        for kind, head in (("align", model.align), ("deblur", model.deblur))
    ]
    report = Report(model, NAME, {"weights": "none <yet>", "parameters": 5})
    report.first = 30
    for before in video():
        pairs.append((before, deblur(before)))
        report.add_frame(*pairs[-1])
    report.write(path)
    for handle in handles:
        handle.remove()
    return path, pairs, predicted


def test_curves_and_times(page):
    path, pairs, _ = page
    data = content(path)
    assert data["input"] == [round(sharpness(before), 4) for before, _ in pairs]
    assert data["output"] == [round(sharpness(after), 4) for _, after in pairs]
    assert len(data["seconds"]) == len(pairs) and min(data["seconds"]) > 0
    assert data["title"] == NAME and data["facts"] == {"weights": "none <yet>", "parameters": 5}


def test_frames_are_the_true_ones(page):
    path, pairs, _ = page
    frames = content(path)["frames"]
    changes = [float((after - before).abs().mean()) for before, after in pairs]
    assert len(frames) == FRAMES and frames[0]["index"] == max(range(len(pairs)), key=changes.__getitem__)
    allowed = oracle.spread(torch.float32, pairs[0][0].numel())  # a mean of all values
    for frame in frames:
        before, after = pairs[frame["index"]]
        assert frame["change"] == pytest.approx(changes[frame["index"]], rel=allowed)
        assert frame["size"] == [65, 46] and set(frame["images"]) == {"before", "after"}
        assert torch.equal(picture(frame["images"]["before"]), to_8bit(before))
        assert torch.equal(picture(frame["images"]["after"]), to_8bit(after))


def test_frames_lie_apart(page):
    at = sorted(frame["index"] for frame in content(page[0])["frames"])
    assert min(b - a for a, b in pairwise(at)) >= len(page[1]) // (2 * FRAMES)


def test_filters_are_the_networks(page):
    """In the place, of the channels and of the kind that the page says."""
    path, pairs, predicted = page
    for frame in content(path)["frames"]:
        before, after = pairs[frame["index"]]
        quarters = {(x > 32, y > 23) for x, y in frame["pixels"]}
        assert len(frame["pixels"]) == len(quarters) == 4
        change = (after - before).abs().mean(0)
        around = [
            float(change[max(0, y - 8) : y + 9, max(0, x - 8) : x + 9].mean()) for x, y in frame["pixels"]
        ]
        assert max(around) > float(change.mean())
        for kind in ("align", "deblur"):
            taps, size = (part.view(128, 9, 12, 17) for part in predicted[kind][frame["index"]])
            channels, shown = frame["filters"][kind]["channels"], frame["filters"][kind]["taps"]
            at, size = (
                torch.stack([t[:, :, y // 4, x // 4] for x, y in frame["pixels"]]) for t in (taps, size)
            )
            # both sides add 128 products and a bias, in orders of their own, and the mean 128 filters more
            eps = torch.finfo(torch.float32).eps
            difference = (torch.tensor(shown)[:, 1:] - at[:, channels]).abs()
            assert (difference <= 2 * 129 * eps * size[:, channels]).all()
            difference = (torch.tensor(shown)[:, 0] - at.mean(1)).abs()
            assert (difference <= 2 * (129 + 128) * eps * size.mean(1)).all()
            aside = (at.abs().sum(2) - at[:, :, 4].abs()).mean(0)
            assert set(channels) == set(aside.topk(4).indices.tolist())


def test_only_a_few_frames_are_kept():
    report = Report(STFAN(kernel_size=1), "long", {})
    for change in torch.rand(300):
        before = torch.zeros(3, 12, 12)
        report.add_frame(before, before + change)
        assert len(report._best) <= FRAMES


def test_the_model_is_let_go(model, tmp_path):
    report = Report(model, "none", {})
    with pytest.raises(ValueError, match=r"page.html: no frame was added"):
        report.write(tmp_path / "page.html")
    assert not any(layer._forward_hooks for layer in (model.align[-2], model.deblur[-2]))
    assert list(tmp_path.iterdir()) == []


def test_frames_in_tiles_have_no_filters(model, tmp_path):
    report, deblur = Report(model, "tiles", {}), Deblurrer(model, tile=24)
    for before in video(2, height=12, width=400):  # wider than a tile and all that it depends on
        report.add_frame(before, deblur(before))
    report.write(tmp_path / "page.html")
    assert all(frame["pixels"] == [] for frame in content(tmp_path / "page.html")["frames"])


def test_large_frames_are_jpeg(model, tmp_path):
    report = Report(model, "large", {})
    width = LOSSLESS // 720 + 4
    before = torch.linspace(0, 1, width).expand(3, 720, width)
    report.add_frame(before, 1 - before)
    report.write(tmp_path / "page.html")
    (frame,) = content(tmp_path / "page.html")["frames"]
    assert frame["images"]["after"].startswith("data:image/jpeg;")
    difference = picture(frame["images"]["after"]).int() - to_8bit(1 - before).int()
    assert difference.abs().max() <= 2  # quality 95


def test_the_page_asks_for_nothing(page):
    text = page[0].read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in text
    assert "://" not in text and "@import" not in text and "<link" not in text
    assert len(re.findall("</script>", text)) == 2  # the file's name brought none
    assert f"<title>{html.escape(NAME)} · stfan</title>" in text


# In a browser


@pytest.fixture
def browse(tmp_path):
    """What a script, run in the page when all of it is there, returns."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")

    def run(path, script):
        probe = tmp_path / "probe.html"
        probe.write_text(
            path.read_text("utf-8").replace(
                "</body>",
                f"<pre id=probe></pre><script>(async () => {{{script}}})().catch(String).then(said => "
                "document.getElementById('probe').textContent = JSON.stringify(said))</script></body>",
            ),
            "utf-8",
        )
        options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")
        for budget in BUDGETS:
            done = subprocess.run(
                [browser, *options, f"--virtual-time-budget={budget}", "--dump-dom", f"file://{probe}"],
                capture_output=True,
                text=True,
                timeout=120,
            )
            said = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
            assert said, done.stderr[-2000:]
            if said.group(1):
                return json.loads(html.unescape(said.group(1)))
        raise AssertionError("the page's script came to no end")

    return run


LOOK = """
const all = (selector) => [...document.querySelectorAll(selector)];
const text = (selector) => all(selector).map((element) => element.textContent);
const pixels = async (image) => {
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [...context.getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 < 3);
};
const slider = document.querySelector(".compare input"), right = document.querySelector(".right");
"""


def test_a_browser_shows_it(page, browse):
    path, pairs, _ = page
    said = browse(
        path,
        LOOK
        + """
        const clip = () => getComputedStyle(right).clipPath, clips = [clip()];
        slider.value = 20; slider.dispatchEvent(new Event("input")); clips.push(clip());
        const marks = all(".compare .mark").map((mark) => mark.style.left);
        const maps = all(".map").length, cells = all(".map rect").length, firstCell = all(".map title")[4].textContent;
        const [before, after] = [await pixels(document.querySelector(".left")), await pixels(right)];
        all(".thumbs button")[1].click();
        const chart = document.querySelector("#curve svg"), at = chart.getBoundingClientRect();
        chart.dispatchEvent(new PointerEvent("pointermove", { clientX: at.right }));
        return { clips, readout: text("#curve .readout span"), marks, maps, cells, firstCell, before, after, other: await pixels(right), about: text("#about")[0],
          title: document.title, heading: text("h1")[0], tiles: text(".tile b"), facts: text("dl.facts div"),
          paths: all("#curve path").map((path) => path.getAttribute("d")), dots: all("#curve circle").length,
          clips_table: all("#clips").length, wide: document.documentElement.scrollWidth <= innerWidth };
        """,
    )
    data = content(path)
    first, second = data["frames"][:2]
    assert [re.findall(r"[\d.]+%", clip) for clip in said["clips"]] == [["50%"], ["20%"]]

    def flat(frame):
        return to_8bit(frame).permute(1, 2, 0).flatten().tolist()

    assert said["before"] == flat(pairs[first["index"]][0])
    assert said["after"] == flat(pairs[first["index"]][1])
    assert said["other"] == flat(pairs[second["index"]][1])
    assert said["title"] == f"{NAME} · stfan" and said["heading"] == NAME
    assert said["facts"] == ["weightsnone <yet>", "parameters5"]
    mean = sum(data["output"]) / len(pairs)
    assert said["tiles"][:2] == [str(len(pairs)), f"{mean:.1f}"]
    assert f"frame {30 + second['index']}: mean change {255 * second['change']:.2f} of 255" in said["about"]
    assert f"{data['input'][second['index']]:.1f} → {data['output'][second['index']]:.1f}" in said["about"]
    assert [float(left[:-1]) for left in said["marks"]] == [
        pytest.approx(100 * (x + 0.5) / 65, abs=0.01) for x, _ in first["pixels"]
    ]
    assert said["maps"] == 4 * 2 * 5 and said["cells"] == 9 * said["maps"]
    centre = first["filters"]["align"]["taps"][0][0][4]
    assert float(said["firstCell"].split(": ")[1]) == pytest.approx(centre, rel=0.01)
    assert [len(re.findall("[ML]", line)) for line in said["paths"]] == [len(pairs)] * 2
    assert said["readout"][0] == f"frame {30 + len(pairs) - 1}"
    assert f"before {data['input'][-1]:.1f}" in said["readout"]
    assert said["dots"] == FRAMES and said["clips_table"] == 0 and said["wide"]


@pytest.fixture(scope="module")
def judged_clips(tmp_path_factory):
    """A clip with a blurry input and one whose input is perfect."""
    torch.manual_seed(2)
    root = tmp_path_factory.mktemp("clips")
    sharp = torch.randint(0, 256, (5, 3, 32, 48), dtype=torch.uint8)
    write_clip(root / "a", (0.5 * sharp + 60).to(torch.uint8), sharp)
    write_clip(root / "b", sharp[:5], sharp[:5])
    return root


def test_the_page_of_an_evaluation(judged_clips, tmp_path, run_cli, browse):
    files = ("--report", tmp_path / "page.html", "--json", tmp_path / "r.json")
    done = run_cli("eval", "--data", judged_clips, "--protocol", "tsp", *files)
    assert done.returncode == 0, done.stderr
    data, result = content(tmp_path / "page.html"), json.loads((tmp_path / "r.json").read_text())
    assert data["result"] == result
    assert data["names"] == [[clip, f"{t:05d}"] for clip in "ab" for t in range(5)]
    for side in ("input", "output"):
        scored = [clip["per_frame"]["00002"][side]["psnr"] for clip in result["clips"].values()]
        scored = [score if score == "inf" else round(score, 4) for score in scored]
        assert data[side] == [None, None, scored[0], None, None, None, None, scored[1], None, None]
    assert set(data["frames"][0]["images"]) == {"before", "after", "target"}
    said = browse(
        tmp_path / "page.html",
        LOOK
        + """
        all("[name=against]")[1].click();
        document.querySelector("[name=difference]").click();
        const blend = getComputedStyle(right).mixBlendMode;
        return { truth: await pixels(document.querySelector(".left")), blend, tiles: text(".tile b"), labels: text(".tile .soft"),
          rows: all(".clips tbody tr, .clips tfoot tr").map((row) => [...row.children].map((cell) => cell.textContent)),
          heads: text(".clips th"), about: text("#about")[0], footer: text("footer")[0], curve: text("#curve h2")[0] };
        """,
    )
    assert said["truth"] == picture(data["frames"][0]["images"]["target"]).permute(1, 2, 0).flatten().tolist()
    assert said["blend"] == "difference"
    overall = result["overall"]
    assert said["tiles"][1:3] == [f"{overall['output']['psnr']:.2f} dB", f"{overall['output']['ssim']:.4f}"]
    assert said["labels"][1:3] == ["PSNR (tsp)", "SSIM (tsp)"] and said["curve"] == "PSNR (tsp) in dB"
    assert said["footer"].startswith("Protocol tsp: without the first and last 2 frames")
    assert ", PSNR (tsp) " in said["about"] or data["input"][data["frames"][0]["index"]] is None
    a = result["clips"]["a"]
    assert said["rows"][0][:4] == ["a", "1", f"{a['input']['psnr']:.2f}", f"{a['output']['psnr']:.2f}"]
    assert said["rows"][1][2] == said["rows"][2][2] == "∞"
    assert said["rows"][2][0] == "overall" and "PSNR (tsp) before" in said["heads"]


def test_the_page_of_a_run(tmp_path, run_cli_inprocess):
    """Of a folder of pictures, whose pixels come in as they are; deblurred again here."""
    (tmp_path / "in").mkdir()
    frames = torch.randint(0, 256, (3, 3, 30, 41), dtype=torch.uint8)
    for t, frame in enumerate(frames):
        write_image(tmp_path / "in" / f"{t}.png", frame)
    options = ("--dtype", "fp32", "--device", "cpu", "--report", tmp_path / "page.html")
    done = run_cli_inprocess("deblur", tmp_path / "in", "-o", tmp_path / "out", *options)
    assert done.returncode == 0 and str(tmp_path / "page.html") in done.stdout, done.stderr
    data, deblur = content(tmp_path / "page.html"), Deblurrer(weights.load())
    outputs = [deblur(frame.float() / 255) for frame in frames]
    assert data["title"] == "in: what stfan deblur changed" and data["facts"]["parameters"] == weights.count(
        weights.load()
    )
    assert data["output"] == [pytest.approx(sharpness(output), rel=1e-3) for output in outputs]
    assert sorted(frame["index"] for frame in data["frames"]) == [0, 1, 2]
    for frame in data["frames"]:
        assert torch.equal(picture(frame["images"]["before"]), frames[frame["index"]])
        shown = picture(frame["images"]["after"]).int()
        assert (
            shown - to_8bit(outputs[frame["index"]]).int()
        ).abs().max() <= 1  # threads may round otherwise
    done = run_cli_inprocess("deblur", tmp_path / "in", "-o", tmp_path / "other", *options)
    assert done.returncode == 1 and "page.html: exists already" in done.stderr
    assert not (tmp_path / "other").exists()
