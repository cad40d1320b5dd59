"""Networks and videos on a device against the CPU in float64; and on a GPU whose memory runs out."""

import pytest
import torch

from fac_ext import build_info
from stfan.model import weights
from stfan.model.deblurrer import Deblurrer
from support import oracle

cuda_only = pytest.mark.skipif(
    not (torch.cuda.is_available() and build_info()["cuda"]), reason="no GPU, or no CUDA kernels"
)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Convolutions in float32 are float32's, not TF32's."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def frames_on(deblurrer, video, device):
    return torch.stack([deblurrer(frame.to(device)).cpu().double() for frame in video])


@pytest.mark.parametrize("tile", [0, 32])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_every_type_whole_and_in_tiles(device, dtype, tile):
    video = torch.rand(3, 3, 36, 52, dtype=torch.float64)
    right = frames_on(Deblurrer(weights.load(dtype=torch.float64)), video, "cpu")
    model = weights.load(device=device, dtype=dtype)
    given = video if dtype == torch.float64 else video.float()
    got = frames_on(Deblurrer(model, tile=tile), given, device)
    oracle.assert_within(got, right, oracle.network(model, dtype, frames=3))
    assert (got - right).abs().mean() < {8: 1e-12, 4: 1e-5, 2: 2e-2}[dtype.itemsize]


def test_a_state_goes_to_another_device_and_on(device, small):
    """What a GPU saved goes on, on the CPU."""
    video = torch.rand(4, 3, 16, 20)
    whole = frames_on(Deblurrer(small), video, "cpu")
    model = type(small)("compact", kernel_size=3)
    model.load_state_dict(small.state_dict())
    begun, ended = Deblurrer(model.to(device).eval()), Deblurrer(small)
    first = frames_on(begun, video[:2], device)
    ended.restore({name: tensor.cpu() for name, tensor in begun.state().items()})
    got = torch.cat([first, frames_on(ended, video[2:], "cpu")])
    oracle.assert_within(got, whole, oracle.network(small, torch.float32, frames=4))


@cuda_only
def test_cuda_out_of_memory_goes_on_in_smaller_tiles():
    """Leave less than half of what the whole frame takes."""
    frame = torch.rand(3, 1024, 1024, device="cuda")
    model = weights.load(device="cuda")
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    whole = Deblurrer(model, tile=0)(frame)
    took = torch.cuda.max_memory_reserved() - held
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.45 * took) / total)
    try:
        deblurrer = Deblurrer(model)
        got = deblurrer(frame)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert deblurrer.tile in (512, 256, 128)
    oracle.assert_within(got, whole, oracle.network(model, torch.float32))
