"""Faults found on a device: written down there, raised by a later call. Nothing waits for the device to learn of them.

Every device has a few numbers, one for each kind of fault, 0 until it is found. Torch's operations, kernels and replays
of CUDA graphs write them. A copy goes to the host beside the work, and the call that finds it done raises what it says.
"""

import atexit
import ctypes
import os
import sys
import threading
import time
from typing import Any, Literal

import torch
from torch import Tensor

EMPTY, VALID, INFINITE, NAN = range(4)  # what a row can be, and the place of its number; VALID says nothing
ROWS = (
    "{}row(s) of logits allow no class (all -inf or masked); leave at least one class allowed",
    "",
    "logits hold {}+inf; only finite values and -inf (impossible class) are legal",
    "logits hold {}NaN; find the operation that made them",
)
PLACES = 64  # kinds of faults of a process; what comes after shares the last
REST = 1e-3  # seconds from one copy to the next: more would cost launches, and say nothing sooner
HOW = "Found by an earlier call on {}; set_validation('immediate') makes the call itself raise, at the price of a wait."


class Cuda:
    """What is asked of CUDA."""

    def is_capturing(self) -> bool:
        """Whether a CUDA graph records the current stream."""
        return torch.cuda.is_current_stream_capturing()

    def host(self) -> Tensor:
        """Memory of the host that a device writes beside its work."""
        return torch.zeros(PLACES, dtype=torch.int32, device="cpu", pin_memory=True)

    def copy(self, host: Tensor, places: Tensor, event: Any) -> Any:
        """Starts a copy on the current stream; an event whose `query()` says whether it is done."""
        host.copy_(places, non_blocking=True)
        event = torch.cuda.Event() if event is None else event
        event.record(torch.cuda.current_stream(places.device))
        return event

    def wait(self, device: torch.device) -> None:
        """Waits for all streams of a device."""
        torch.cuda.synchronize(device)


class Faults:
    """Those of one device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.layer, self.lock = device, LAYERS[device.type], threading.Lock()
        with torch.inference_mode(False):
            self.places = torch.zeros(PLACES, dtype=torch.int32, device=device)
            self.unread = torch.empty_like(self.places)  # where kernels write while validation is off
        self.host: Any = None  # made when it is needed: not while a graph is recorded
        self.numbers = (ctypes.c_int32 * PLACES)()
        self.edges: dict[torch.dtype, Tensor] = {}
        self.event: Any = None
        self.copying, self.due = False, 0.0

    def look(self) -> None:
        """Raises what the last copy brought, if it is done, and starts the next."""
        if self.layer.is_capturing() or not self.lock.acquire(blocking=False):
            return  # another thread looks
        try:
            if self.copying and not self.event.query():
                return
            if self.copying:
                self.copying = False
                self.raise_found()
            if (now := time.monotonic()) >= self.due:
                self.event = self.layer.copy(self.on_host(), self.places, self.event)
                self.copying, self.due = True, now + REST
        finally:
            self.lock.release()

    def wait(self) -> None:
        """Waits for the device and raises what it found."""
        if self.layer.is_capturing():
            raise RuntimeError("check_pending waits for the device: call it when the CUDA graph is recorded")
        with self.lock:
            self.layer.wait(self.device)
            self.on_host().copy_(self.places)
            self.copying = False
            self.raise_found()

    def on_host(self) -> Tensor:
        """Where copies arrive; `numbers` are the same memory."""
        if self.host is None:
            with torch.inference_mode(False):
                self.host = self.layer.host()
            self.numbers = (ctypes.c_int32 * PLACES).from_address(self.host.data_ptr())
        return self.host

    def raise_found(self) -> None:
        """Raises what the host knows, and forgets it here and on the device."""
        if text := self.found():
            for place in range(PLACES):
                if self.numbers[place]:
                    self.places[place].zero_()
            ctypes.memset(self.numbers, 0, ctypes.sizeof(self.numbers))
            raise ValueError(f"{text}. {HOW.format(self.device)}")

    def found(self) -> str:
        """What the host knows."""
        return " Also: ".join(
            _messages[place].format("") for place in (NAN, INFINITE, EMPTY, *range(4, PLACES)) if self.numbers[place]
        )

    def write_rows(self, top: Tensor) -> None:
        """Writes down what is wrong with rows, of which `top` is the largest value (NaN if one is)."""
        edges = self.edges.get(top.dtype)
        if edges is None:
            low, high = -torch.inf, torch.finfo(top.dtype).max
            edges = torch.cat([top.new_full((1,), edge) for edge in (low, high, torch.inf)])
            if not self.layer.is_capturing():  # a graph fills its own at every replay, and nobody else's
                self.edges[top.dtype] = edges
        kinds = torch.bucketize(top, edges)  # NaN lies behind the last edge
        self.places.index_fill_(0, kinds.flatten(), 1)


def _from_environment(word: str) -> bool | str:
    return word if word == "immediate" else word != "0"


mode: bool | str = _from_environment(os.environ.get("CATREPARAM_VALIDATION", "1"))
LAYERS: dict[str, Any] = {"cuda": Cuda()}  # device types whose faults wait, with what is asked of them
_of: dict[torch.device, Faults] = {}
_messages: list[str] = list(ROWS)
_places: dict[str, int] = {}
_registry = threading.Lock()
_of_the_parent: list[object] = []


def set_validation(enabled: bool | Literal["immediate"]) -> None:
    """Turns the data-dependent checks (NaN, +inf, rows with nothing allowed) on or off for this process.

    True:        on the CPU the call itself raises. On a CUDA device the call gives NaN, and a later one raises, see
                 `check_pending`: nothing waits for the device.
    "immediate": the call itself raises there too, which reads a value back from the device in every call: to find out
                 which call it is.
    False:       no errors. On a CUDA device invalid rows give NaN all the same.

    Checks skip themselves where no value can be read: inside `torch.compile`, `torch.export`, `torch.jit.trace`,
    `make_fx`, `torch.vmap` and `torch.func` transforms, and for meta and fake tensors. At the start they are on, unless
    the environment variable CATREPARAM_VALIDATION is 0 or immediate. Checks of types, shapes and hyperparameters are
    always on.

    >>> set_validation(True)
    """
    global mode
    if not isinstance(enabled, bool) and enabled != "immediate":
        raise TypeError(f"enabled must be True, False or 'immediate', got {enabled!r}")
    mode = enabled


def waits(device: torch.device) -> bool:
    """Whether reading a value of a tensor there waits for other work."""
    return device.type in LAYERS


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph records what is done on a device: nothing can be read."""
    return waits(device) and LAYERS[device.type].is_capturing()


def defers(device: torch.device) -> bool:
    """Whether faults on a device are written down for later."""
    return waits(device) and (mode != "immediate" or is_capturing(device))


def faults_of(device: torch.device) -> Faults:
    """The faults of a device that `waits`."""
    if device in _of:
        return _of[device]
    faults = Faults(device)
    if LAYERS[device.type].is_capturing():
        return faults  # its memory belongs to the graph: written at every replay, read by nobody
    with _registry:
        if not _of:
            atexit.register(_say_at_exit)
        return _of.setdefault(device, faults)


def note(found: Tensor, message: str) -> None:
    """Writes down `message` for `found`, one boolean on a device that `waits`, and raises what is known by now."""
    faults = faults_of(found.device)
    faults.places[_place_of(message)].logical_or_(found)
    faults.look()


def note_rows(top: Tensor) -> None:
    """Writes down what is wrong with rows on a device that `waits`, and raises what is known by now.

    top: the largest value of every row, NaN if one is.
    """
    faults = faults_of(top.device)
    faults.write_rows(top)
    faults.look()


def look(device: torch.device) -> None:
    """Raises what is known by now of a device; nothing while torch records."""
    if not torch.compiler.is_compiling() and device in _of and mode is not False:
        _of[device].look()


def check_pending(device: torch.device | str | int | None = None) -> None:
    """Waits for a CUDA device (None: for all that were used) and raises what calls on it found and did not say.

    No other function of this library waits for a device unasked. A call whose logits hold NaN or +inf, or allow no
    class, gives NaN there, as sample and as gradient; the error comes from the first later call, or backward pass,
    that finds the device done with it, or from here. On the CPU, and with `set_validation("immediate")`, the call
    itself raises and this function does nothing. Replays of CUDA graphs are told of too, if a call on their device came
    before the first was recorded.

    Raises ValueError for invalid input of earlier calls; RuntimeError while a CUDA graph is recorded.

    >>> check_pending()
    """
    wanted = None if device is None else torch.device(device)
    for faults in list(_of.values()):
        if wanted is None or (wanted.type == faults.device.type and wanted.index in (None, faults.device.index)):
            faults.wait()


def _place_of(message: str) -> int:
    with _registry:
        if message not in _places:
            if len(_messages) == PLACES:
                _messages[-1] = "one of many values is not allowed"
                return PLACES - 1
            _places[message] = len(_messages)
            _messages.append(message.replace("{", "{{").replace("}", "}}"))
        return _places[message]


def _say_at_exit() -> None:
    """Faults that no call came to raise, as far as they are known."""
    for faults in _of.values():
        try:
            text = faults.found() if faults.copying and faults.event.query() else ""
        except RuntimeError:  # the device is gone
            continue
        if text:
            print(f"catreparam: {text}. {HOW.format(faults.device)}", file=sys.stderr)


def _forget_in_child() -> None:
    """A forked process has no devices; what is theirs is kept, since letting go of it would ask for them."""
    global _of, _registry
    _of_the_parent.append(_of)
    _of, _registry = {}, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
