"""Build one wheel and test it with several versions of torch, each in a throw-away environment; write docs/wheels.md.

Opt-in with `make wheels`: each version is gigabytes of downloads.
"""

import datetime
import json
import sys
import venv

import pytest
import torch

from support.checkout import ROOT, run

VERSIONS = ("2.10.0", "2.12.1", "2.15.0")


@pytest.mark.wheels
def test_one_wheel_serves_every_torch(tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    found = []
    for version in VERSIONS:
        folder = tmp_path / version
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        run(python, "-m", "pip", "install", "-q", "--no-cache-dir", f"torch=={version}", "numpy")
        run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)
        said = run(python, ROOT / "tests/packaging/smoke.py", cwd=tmp_path).splitlines()
        # beside torch's warnings
        found.append(json.loads(next(line for line in said if line.startswith("{"))))
        assert found[-1]["torch"].split("+")[0] == version
        run("rm", "-r", folder)
    rows = "\n".join(f"| {f['torch']} | {f['python']} | {f['cpu_simd']} | passed |" for f in found)
    (ROOT / "docs/wheels.md").write_text(
        f"""# One wheel, every torch from 2.10

`make wheels` builds one wheel and tests it in other environments with [smoke.py](../tests/packaging/smoke.py): values,
first and second derivatives, half types, layouts, torch.compile and vmap, on the CPU.

Last run: {datetime.date.today()}, with `{wheel.name}` ({wheel.stat().st_size / 1e6:.1f} MB),
built with torch {torch.__version__} and CUDA {found[0]["cuda"]} ({found[0]["cuda_architectures"]}).

| torch | Python | CPU kernels | smoke test |
|---|---|---|---|
{rows}

**Which CUDA.** Build wheels for others with a toolkit of CUDA 12.8 or 12.9 (the first with Blackwell) and a CPU build
of torch. By NVIDIA's rules, not tried here, such a wheel runs with drivers of CUDA 12 and 13, whatever CUDA torch
brings: the runtime is linked in. A wheel of CUDA 13 needs a driver of CUDA 13 (580 or newer). Under a torch of CUDA 12
and an older driver its CPU kernels run; a call on the GPU is an error that names both versions.
"""
    )
