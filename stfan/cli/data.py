"""The commands stfan data check, synth and preview."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.progress import track
from rich.table import Table
from rich.text import Text

from stfan.cli.console import LogHandler, stderr_console, stdout_console
from stfan.cli.options import Overwrite
from stfan.data.paired_videos import PairedDataset, check_frames, find_videos
from stfan.data.splits import write_split
from stfan.devices import resolve_device
from stfan.files import check_writable
from stfan.images import image_size, open_rgb

Item = TypeVar("Item")

data = typer.Typer(help="Check, make and look at training data.", no_args_is_help=True)


@data.command()
def check(
    root: Annotated[Path, typer.Argument(help="A data set as it was downloaded.")],
    sharp: Annotated[
        Path | None,
        typer.Argument(help="The folder with the sharp frames, if ROOT has only the blurry ones."),
    ] = None,
    layout: Annotated[
        str, typer.Option(help="auto, the name of a layout, or a split as the authors' JSON file.")
    ] = "auto",
    gopro_blur: Annotated[
        Literal["blur_gamma", "blur"], typer.Option(help="Which of GoPro's two kinds of blurry frames.")
    ] = "blur_gamma",
    split: Annotated[
        Path | None, typer.Option(help="Also write what was found as the authors' JSON.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """List the videos of a data set, and what is wrong: frames unpaired, unreadable or of another size."""
    check_writable("--split", split, ".json", overwrite)
    with LogHandler(stderr_console).attached():
        folders = root if sharp is None else (root, sharp)
        dataset = find_videos(folders, None, layout, gopro_blur, strict=False)
    if split is not None and any(video.phase is None for video in dataset.videos):
        raise ValueError(f"{root}: {dataset.layout} tells no phases apart, which --split would write")
    problems = check_frames(
        dataset, lambda videos: track(videos, "frames", console=stderr_console, transient=True)
    )
    stdout_console().print(video_table(dataset))
    for line in problems:
        print(line)
    pairs = sum(len(video.blurry) for video in dataset.videos)
    count = f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"
    print(f"{len(dataset.videos)} videos, {pairs} pairs, {count}")
    if split is not None:
        write_split(split, dataset.split)
        print(split)
    if problems:
        raise typer.Exit(1)


def video_table(dataset: PairedDataset) -> Table:
    """Make a table of the videos: phase, name, number of pairs, size of the first frame."""
    table = Table(title=dataset.layout, title_justify="left")
    table.add_column("phase", overflow="fold")
    table.add_column("video", overflow="fold")
    table.add_column("pairs", overflow="fold", justify="right")
    table.add_column("size", overflow="fold", justify="right")
    for video in dataset.videos:
        try:
            size = "x".join(map(str, image_size(video.blurry[0])))
        except OSError:
            size = "?"
        table.add_row(video.phase or "", Text(video.name), str(len(video.blurry)), size)
    return table


@data.command()
def synth(
    source: Annotated[
        Path, typer.Argument(help="A folder of images, or a sharp video with many frames a second.")
    ],
    root: Annotated[Path, typer.Argument(help="The folder to make, which will hold the clips.")],
    cutouts: Annotated[
        Path | None, typer.Option(help="A folder of RGBA images that move in front of the others.")
    ] = None,
    clips: Annotated[
        int | None, typer.Option(min=1, help="Number of training clips.", show_default="400")
    ] = None,
    test_clips: Annotated[
        int | None,
        typer.Option(min=1, help="Number of test clips, of images not trained on.", show_default="24"),
    ] = None,
    frames: Annotated[int, typer.Option(min=2, help="Frames of a clip.")] = 10,
    size: Annotated[
        int | None,
        typer.Option(
            min=16, help="Side of a frame in pixels, one number: frames are square.", show_default="192"
        ),
    ] = None,
    average: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help="Of a video: the least and the greatest number of frames that become one.",
            show_default="7 13",
        ),
    ] = None,
    fastest: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of a video: leave out what moves more pixels a frame than this."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random draws.")] = 0,
    device: Annotated[str, typer.Option(help="Device that renders: auto, cpu, cuda, xpu, mps.")] = "cpu",
) -> None:
    """Make blurred and sharp clips: of images, every sixth one for the test clips alone; or of a video."""
    from stfan.synthesis.export import synthesize_set, video_set

    device = resolve_device(device)
    if source.is_dir():
        if average or fastest is not None:
            raise typer.BadParameter("--average and --fastest are for a video, and SOURCE is a folder")
        synthesize_set(
            source,
            root,
            clips or 400,
            test_clips or 24,
            frames,
            size or 192,
            seed,
            lambda jobs: track(jobs, "clips", console=stderr_console),
            cutouts=cutouts,
            device=device,
        )
    elif any((cutouts, clips, test_clips, size)):
        raise typer.BadParameter(
            "all of a video is used, at its own size: only --frames, --average, --fastest and --seed go with it"
        )
    else:
        video_set(source, root, frames, seed, average or (7, 13), fastest)
    print(root)


@data.command()
def judging(
    pictures: Annotated[Path, typer.Argument(help="A folder of pictures that nothing is trained on.")],
    root: Annotated[Path, typer.Argument(help="The folder to make, with the clips in it.")],
    cutouts: Annotated[Path, typer.Option(help="A folder of RGBA pictures, to move before the others.")],
) -> None:
    """Make the clips to judge weights on: drifts of 0, 2, 4 and 8 pixels a frame, each with and without noise."""
    from stfan.synthesis.export import synthesize_judging_set

    synthesize_judging_set(
        pictures, root, cutouts, progress=lambda jobs: track(jobs, "clips", console=stderr_console)
    )
    print(root)


@data.command()
def preview(
    root: Annotated[Path, typer.Argument(help="A data set.")],
    picture: Annotated[Path, typer.Option("-o", "--out", help="The PNG file to write.")],
    clips: Annotated[int, typer.Option(min=1, help="Number of clips, spread over all.")] = 8,
    overwrite: Overwrite = False,
) -> None:
    """Draw a contact sheet: a few frames of some clips, blurry and sharp."""
    from stfan.evaluation.contact_sheet import COLUMNS, contact_sheet

    check_writable("--out", picture, ".png", overwrite)

    def read(name: str, sides: tuple[tuple[Path, ...], ...]) -> dict[str, Any]:
        import torch

        blurry, sharp = (torch.stack([*map(open_rgb, spread(side, COLUMNS))]) for side in sides)
        return {"name": name, "blurry": blurry, "sharp": sharp}

    selection = spread([*find_videos(root).clips.items()], clips)
    contact_sheet((read(*clip) for clip in selection), picture)
    print(picture)


def spread(items: "list[Item] | tuple[Item, ...]", count: int) -> list[Item]:
    """Choose some items, evenly over all, with the first and the last among them."""
    count = min(count, len(items))
    return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(count)]
