"""Integers across the bus: to the network's device and back, beside its work."""

from collections.abc import Callable

import torch

RING = 3  # pinned buffers for each direction: one is filled, one is on its way, one is read


class Transfer:
    """Copies tensors to a device and back. This one is for a CPU, where nothing needs to be copied."""

    def upload(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the tensor on the device; what is launched there next may read it."""
        return samples

    def download(self, *tensors: torch.Tensor) -> Callable[[], list[torch.Tensor]]:
        """Begin to copy tensors from the device; the function that is returned waits for them."""
        return lambda: list(tensors)


class CudaTransfer(Transfer):
    """Copies by pinned memory on streams of their own, so that neither the host nor the network waits.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._uploads = [_Slot() for _ in range(RING)]
        self._downloads = [_Slot() for _ in range(RING)]

    def upload(self, samples: torch.Tensor) -> torch.Tensor:
        """See :meth:`Transfer.upload`."""
        slot = self._next(self._uploads)
        (pinned,) = slot.fit(samples)
        pinned.copy_(samples)
        with torch.cuda.stream(self._up):
            there = pinned.to(self._device, non_blocking=True)
            slot.done.record(self._up)
        network = torch.cuda.current_stream(self._device)
        network.wait_event(slot.done)
        there.record_stream(network)
        return there

    def download(self, *tensors: torch.Tensor) -> Callable[[], list[torch.Tensor]]:
        """See :meth:`Transfer.download`; the function must be called before RING further downloads begin."""
        slot = self._next(self._downloads)
        pinned = slot.fit(*tensors)
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            for here, there in zip(pinned, tensors, strict=True):
                here.copy_(there, non_blocking=True)
                there.record_stream(self._down)
            slot.done.record(self._down)

        def wait() -> list[torch.Tensor]:
            slot.done.synchronize()
            return [here.clone() for here in pinned]

        return wait

    def _next(self, ring: "list[_Slot]") -> "_Slot":
        slot = ring.pop(0)
        ring.append(slot)
        # Of three frames ago, so that it hardly ever waits.
        slot.done.synchronize()
        return slot


class _Slot:
    """Pinned tensors, and when they are free or full."""

    def __init__(self) -> None:
        self.done, self._tensors = torch.cuda.Event(), list[torch.Tensor]()

    def fit(self, *like: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors, made anew if they have other shapes or types."""
        if [(t.shape, t.dtype) for t in self._tensors] != [(t.shape, t.dtype) for t in like]:
            self._tensors = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in like]
        return self._tensors


def transfer_to(device: torch.device) -> Transfer:
    """Return the Transfer for a device."""
    return CudaTransfer(device) if device.type == "cuda" else Transfer()
