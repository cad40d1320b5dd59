"""Tables of scores for the terminal: clips, and buckets of blur."""

from typing import Any

from rich.table import Table
from rich.text import Text

from stfan.evaluation.evaluate import rows


def clip_table(result: dict[str, Any]) -> Table:
    """Make a table of the clips' scores and the overall ones; every heading names the protocol."""
    by = f"\n({result['protocol']})"
    scores = Table(caption=result["rule"], caption_justify="left")
    scores.add_column("clip", overflow="fold")
    headings = (
        "frames",
        f"PSNR in{by}",
        f"PSNR out{by}",
        f"gain{by}",
        f"SSIM in{by}",
        f"SSIM out{by}",
        "s/frame",
    )
    for heading in headings:
        scores.add_column(heading, justify="right", no_wrap=True)
    for _, clip, frames, psnr_in, psnr_out, ssim_in, ssim_out, seconds in rows(result):
        scores.add_row(
            Text(clip),
            str(frames),
            f"{psnr_in:.2f}",
            f"{psnr_out:.2f}",
            f"{psnr_out - psnr_in:+.2f}",
            f"{ssim_in:.4f}",
            f"{ssim_out:.4f}",
            f"{seconds:.3f}",
            end_section=len(result["clips"]) == scores.row_count + 1,
        )
    return scores


def bucket_table(scores: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """Draw the scores of :func:`stfan.evaluation.buckets.bucket_scores`: a line for each bucket, never one over all."""
    drawn = Table(caption="gain in dB: mean of the clips, PSNR (rgb8)", caption_justify="left")
    for heading in ("noise", "drift, px a frame", "clips", "PSNR in", "gain", "worst", "got worse"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for kind, drifts in scores.items():
        for drift, score in drifts.items():
            drawn.add_row(
                {"clean": "no", "noisy": "yes"}[kind],
                drift,
                str(score["clips"]),
                f"{score['input']:.2f}",
                f"{score['gain']:+.2f}",
                f"{score['worst']:+.2f}",
                f"{score['worse']:.0%}",
                end_section=drift == list(drifts)[-1],
            )
    return drawn
