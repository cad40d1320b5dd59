"""Entry points for torch.hub: torch.hub.load("OWNER/REPOSITORY", "deblurrer"). The package must be installed."""

from stfan import Deblurrer, load

dependencies = ["numpy", "safetensors", "torch"]


def deblurrer(weights=None, device="cpu", dtype=None, **options):
    """Return a Deblurrer, which maps frames (3, H, W), RGB in [0, 1], to deblurred ones, one after the other.

    Args:
        weights, device, dtype: see :func:`stfan.load`.
        options: of :class:`stfan.Deblurrer`: tile, reset_on_cut, strength.
    """
    return Deblurrer(load(weights, device, dtype), **options)
