"""A web page that deblurs two seconds of a video, as a Hugging Face Space of the kind Gradio has it.

A Space needs this file, requirements.txt and README.md, and no Dockerfile. On a machine of one's own: python app.py
"""

import tempfile
from pathlib import Path

import gradio as gr
import numpy as np

from stfan.cli.job import DeblurJob, LoadedNetwork, NetworkChoice, Part
from stfan.cli.most_changed import MostChangedFrame
from stfan.cli.trial import middle

SECONDS = 2.0
network: LoadedNetwork | None = None


def deblur(video: str, strength: float) -> tuple[tuple[np.ndarray, np.ndarray], str, str]:
    """Deblur the middle of a video; return its frame that changed most, before and after, the video, and a sentence."""
    global network
    # Within gradio's cache, which deletes it.
    source = Path(video)
    folder = Path(tempfile.mkdtemp(dir=source.parent))
    start, end = middle(source, SECONDS)
    job = DeblurJob(
        source, folder / "deblurred.mp4", NetworkChoice(strength=strength), part=Part(start, end), sound=False
    )
    if network is None or network.choice != job.network:
        network = job.network.load()
    changed = MostChangedFrame()
    try:
        opened = job.open()
        with opened.reader:
            result = opened.run(network, observer=changed)
    except (OSError, ValueError, RuntimeError) as error:
        raise gr.Error(str(error)) from error
    assert changed.pair is not None
    before, after = ((frame.permute(1, 2, 0) * 255).round().byte().cpu().numpy() for frame in changed.pair)
    return (before, after), str(result.path), f"{result.frames} frames, {changed.words}"


# What was uploaded or made more than a day ago is deleted each hour.
with gr.Blocks(title="Video deblurring", delete_cache=(3600, 86400)) as page:
    gr.Markdown(f"# Video deblurring\nThe middle {SECONDS:g} seconds of a video, before and after.")
    with gr.Row():
        source = gr.Video(label="Video", sources=["upload"], elem_id="source")
        strength = gr.Slider(0, 1.5, 1.0, label="Strength")
    button = gr.Button("Deblur", elem_id="deblur")
    slider = gr.ImageSlider(label="The frame that changed most, before and after", elem_id="slider")
    words = gr.Textbox(label="Change", elem_id="words")
    output = gr.Video(label="Deblurred", elem_id="output")
    button.click(deblur, [source, strength], [slider, output, words])

if __name__ == "__main__":
    page.launch()
