"""A device that is not there: the CPU's tensors, whose faults wait as those of a GPU do, for tests without one."""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


class ReadBacks(TorchDispatchMode):
    """Inside, operations after which the host knows a value of a tensor are counted, or an error unless `allowed`."""

    READS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "nonzero_static", "equal", "masked_select")
    READS += ("_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave")
    METHODS = ("tolist", "numpy", "cpu")  # of the CPU's tensors, which no mode sees

    def __init__(self, *, allowed=False):
        super().__init__()
        self.allowed, self.count, self.plain = allowed, 0, {}

    def __enter__(self):
        self.plain = {name: getattr(torch.Tensor, name) for name in self.METHODS}
        for name in self.METHODS:
            setattr(torch.Tensor, name, self.counting(name))
        return super().__enter__()

    def __exit__(self, *error):
        for name, method in self.plain.items():
            setattr(torch.Tensor, name, method)
        super().__exit__(*error)

    def counting(self, name):
        def method(tensor, *arguments, **keywords):
            self.met(name)
            return self.plain[name](tensor, *arguments, **keywords)

        return method

    def met(self, name):
        self.count += 1
        if not self.allowed:
            raise AssertionError(f"{name} reads a value back")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        masks = [index for index in indices if index is not None and index.dtype in (torch.bool, torch.uint8)]
        if name in self.READS or masks:
            self.met(func)
        return func(*args, **(kwargs or {}))
