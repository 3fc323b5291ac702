"""A device that is not there: the CPU's tensors, whose faults wait as those of a GPU do, for tests without one."""

from contextlib import contextmanager

import torch

from catreparam import pending
from catreparam.kernels import dispatch


class Device:
    """Stands for CUDA in `pending.LAYERS`: its copies arrive when the test says `work()`."""

    def __init__(self):
        self.capturing, self.waited, self.copies, self.queries, self.queue = False, 0, 0, 0, []

    def is_capturing(self):
        return self.capturing

    def host(self):
        return torch.zeros(pending.PLACES, dtype=torch.int32)

    def copy(self, host, places, event):
        assert not self.capturing
        self.copies += 1
        self.queue.append((host, places.clone()))
        return self

    def query(self):
        assert not self.capturing
        self.queries += 1
        return not self.queue

    def wait(self, device):
        assert not self.capturing
        self.waited += 1
        self.work()

    def work(self):
        for host, places in self.queue:
            host.copy_(places)
        self.queue.clear()


@contextmanager
def as_device(path="naive"):
    """Inside, CPU tensors live on a `Device`, which is given; estimators take `path` or a slower one."""
    device = Device()
    before = pending._of, pending.REST
    pending.LAYERS["cpu"], pending._of, pending.REST = device, {}, 0.0
    try:
        with dispatch.using(path):
            yield device
    finally:
        del pending.LAYERS["cpu"]
        pending._of, pending.REST = before
