"""Judge the bundled weights on the clips of `stfan data judging`, by bucket, in the precision that `stfan deblur` takes."""

import argparse
import json
from pathlib import Path

from harness import environment, json_path


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, help="the folder of the clips")
    parser.add_argument("--weights", nargs="+", help="names or files [all that are bundled]")
    parser.add_argument(
        "--json",
        type=Path,
        help="also write the figures to this file, or to DEVICE-judging.json in this folder",
    )
    parser.add_argument("--threads", type=int, help="CPU threads [torch's own choice]")
    parser.set_defaults(device="cpu", commit=None)
    options = parser.parse_args()
    import torch

    from stfan.cli.console import stdout_console
    from stfan.cli.options import DTYPES, resolve_dtype
    from stfan.data.paired_videos import find_videos
    from stfan.evaluation.buckets import bucket_scores, bucket_table
    from stfan.evaluation.evaluate import evaluate
    from stfan.evaluation.metrics import PROTOCOLS
    from stfan.model import weights
    from stfan.model.deblurrer import Deblurrer

    if options.threads:
        torch.set_num_threads(options.threads)
    clips = find_videos(options.clips).only("test").clips
    judged, dtype = {}, resolve_dtype("auto", "cpu")
    for name in options.weights or weights.BUNDLED:
        result = evaluate(
            Deblurrer(weights.load(name, dtype=getattr(torch, DTYPES[dtype]))), clips, PROTOCOLS["rgb8"]
        )
        judged[name] = bucket_scores(result)
        print(name)
        stdout_console().print(bucket_table(judged[name]))
    if options.json:
        facts = environment(options)
        path = json_path(options.json, facts, "-judging")
        facts_of_clips = json.loads((options.clips / "clips.json").read_text())
        report = {"environment": facts, "dtype": dtype, "clips": facts_of_clips, "weights": judged}
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
