"""Several processes, one run: data parallelism under torchrun.

Every process holds the whole model and computes its share of each global batch; gradients are averaged once per step,
after accumulation. The global batch is a range of sample numbers, so its content does not depend on how many processes
share it.
"""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


class World:
    """This process's rank among all. Without torchrun's environment variables: rank 0 of 1.

    device: where the tensors lie that the processes average; each takes the GPU of its local rank.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not dist.is_initialized():
            if self._device.type == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("nccl" if self._device.type == "cuda" else "gloo")

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0

    def share(self, samples: int) -> int:
        """How many of a global batch's samples are this process's.

        Raises:
            ValueError: the batch cannot be shared evenly.
        """
        if samples % self.size:
            raise ValueError(
                f"{self.size} processes cannot share a global batch of {samples} samples evenly; "
                "change --batch-size or --grad-accum so that their product is a multiple of the processes"
            )
        return samples // self.size

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, in one message."""
        if self.size == 1:
            return
        listed = list(tensors)
        flat = torch.cat([t.reshape(-1).float() for t in listed])
        dist.all_reduce(flat)
        flat /= self.size
        offset = 0
        for tensor in listed:
            tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()

    def agree(self, flag: bool) -> bool:
        """True in every process if it is true in one: a stop or a skipped step must be everybody's."""
        if self.size == 1:
            return flag
        vote = torch.tensor([float(flag)], device=self._device)
        dist.all_reduce(vote, op=dist.ReduceOp.MAX)
        return bool(vote.item())

    def wait(self) -> None:
        """Returns once every process is here."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leaves the process group, if there is one."""
        if dist.is_initialized():
            dist.destroy_process_group()
