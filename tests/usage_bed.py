"""One of two processes that count usage together: RANK and a file to meet at are given; prints what it counted."""

import os
import sys

import torch

from catreparam.nn import CategoricalBottleneck, VectorQuantizer


def main(rank: int, meeting: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(0)
    shared = CategoricalBottleneck(3, train_mode="argmax", sync_usage=True)
    shared(torch.eye(3)[[rank] * (3 if rank else 1)])  # one of class 0 here, three of class 1 there
    alone = CategoricalBottleneck(3, train_mode="argmax")
    alone(torch.eye(3)[[rank]])
    quantizer = VectorQuantizer(2, 4, sync_usage=True, replace_after=1)
    parallel = torch.nn.parallel.DistributedDataParallel(quantizer)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(3):
        quantized, _, loss = parallel(torch.randn(8, 2, generator=generator), generator=generator)
        (quantized.square().sum() + loss).backward()
    try:
        VectorQuantizer(2, 4)(torch.zeros(3, 2))
        said = "nothing"
    except ValueError as error:
        said = str(error)
    book = [round(value, 5) for value in quantizer.codebook.flatten().tolist()]
    print([shared.usage.tolist(), alone.usage.tolist(), book, quantizer.usage.tolist(), said], flush=True)
    torch.distributed.barrier()
    os._exit(0)  # taking gloo and its file down has hung on a busy machine, after all was printed


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
