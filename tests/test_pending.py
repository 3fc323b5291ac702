"""Faults of a device, which a later call raises: a stand-in for the device, on the CPU."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import catreparam as c
from catreparam import pending
from catreparam.kernels.triton import autograd as triton_autograd
from catreparam.validation import check_rows, demand
from devices import as_device

GOOD, CPU = torch.zeros(4, 3), torch.device("cpu")
BAD = {"NaN": torch.nan, r"\+inf": torch.inf, r"row\(s\) of logits allow no class": -torch.inf}


def bad_rows(value):
    logits = GOOD.clone()
    logits[1] = value
    return logits


@pytest.fixture
def device():
    with as_device() as found:
        yield found


@pytest.fixture
def _immediate():
    c.set_validation("immediate")
    yield
    c.set_validation(True)


@pytest.mark.parametrize("message", BAD)
def test_the_first_call_that_finds_the_device_done_raises(device, message):
    check_rows(bad_rows(BAD[message]))
    check_rows(GOOD)  # the copy is under way: nothing is known, nothing waits
    device.work()
    with pytest.raises(ValueError, match=rf"{message}.*earlier call on cpu.*set_validation\('immediate'\)"):
        check_rows(GOOD)
    device.work()
    check_rows(GOOD)
    check_rows(GOOD)
    assert device.waited == 0


@pytest.mark.parametrize("message", BAD)
def test_check_pending_waits_and_raises_once(device, message):
    check_rows(bad_rows(BAD[message]))
    with pytest.raises(ValueError, match=message):
        c.check_pending()
    assert device.waited == 1
    c.check_pending("cpu")
    c.check_pending(torch.device("cuda"))
    assert device.waited == 2


def test_several_faults_are_all_named(device):
    for value in BAD.values():
        check_rows(bad_rows(value))
    with pytest.raises(ValueError, match=r"hold NaN.* Also: .*\+inf.* Also: .*no class"):
        c.check_pending()


def test_rows_of_any_wide_dtype_and_masks_are_told_apart(device):
    for dtype in (torch.float32, torch.float64):
        top = torch.finfo(dtype).max
        check_rows(torch.tensor([[top, -top], [-torch.inf, -top], [0.0, -torch.inf]], dtype=dtype))
        c.check_pending()
        check_rows(bad_rows(torch.nan).to(dtype))
        with pytest.raises(ValueError, match="NaN"):
            c.check_pending()


@pytest.mark.usefixtures("_immediate")
def test_immediate_validation_raises_in_the_call_itself(device):
    with pytest.raises(ValueError, match="logits hold 3 NaN"):
        check_rows(bad_rows(torch.nan))
    device.capturing = True
    check_rows(bad_rows(torch.nan))  # a graph cannot be read; it writes down what it finds
    device.capturing = False
    assert device.copies == 0


def test_validation_that_is_off_says_nothing(device):
    c.set_validation(False)
    try:
        check_rows(bad_rows(torch.nan))
        c.check_pending()
    finally:
        c.set_validation(True)
    with pytest.raises(TypeError, match="enabled must be True, False or 'immediate', got 'later'"):
        c.set_validation("later")


def test_a_graph_writes_down_and_reads_nothing(device):
    check_rows(GOOD)
    device.work()
    copies = device.copies
    device.capturing = True
    check_rows(bad_rows(torch.nan))  # as a replay does
    assert (device.copies, device.waited) == (copies, 0)
    with pytest.raises(RuntimeError, match="check_pending waits for the device: call it when the CUDA graph"):
        c.check_pending()
    device.capturing = False
    check_rows(GOOD)
    device.work()
    with pytest.raises(ValueError, match="NaN"):
        check_rows(GOOD)


def test_memory_made_while_a_graph_is_recorded_is_that_graphs(device):
    device.capturing, device.host = True, None  # no memory of the host is asked for
    check_rows(GOOD)
    assert pending._of == {}


def test_edges_that_a_graph_fills_serve_that_graph_alone(device):
    check_rows(GOOD)
    device.capturing = True
    check_rows(GOOD.double())
    assert list(pending._of[CPU].edges) == [torch.float32]


def test_a_copy_is_started_when_the_last_one_is_done_and_some_time_has_passed(device):
    for _ in range(5):
        check_rows(GOOD)
    assert device.copies == 1
    device.work()
    check_rows(GOOD)
    assert device.copies == 2
    device.work()
    pending._of[CPU].due = float("inf")
    check_rows(GOOD)
    assert device.copies == 2


def test_devices_have_faults_of_their_own(device):
    other = pending.Faults(CPU)
    pending._of[torch.device("cpu:1")] = other
    other.write_rows(torch.tensor([torch.nan]))
    c.check_pending(torch.device("cpu:0"))
    with pytest.raises(ValueError, match="NaN"):
        c.check_pending()


def test_another_message_is_kept_with_its_braces(device):
    demand(torch.ones(3), lambda values: values > 0, "never")
    demand(torch.ones(3), lambda values: values > 1, "values must be {large}")
    demand(torch.ones(3), lambda values: values > 0, "values must be {large}")
    with pytest.raises(ValueError, match=r"^values must be \{large\}\. Found"):
        c.check_pending()


def test_more_kinds_than_places_share_the_last(device, monkeypatch):
    monkeypatch.setattr(pending, "_messages", [*pending._messages])
    monkeypatch.setattr(pending, "_places", {})
    for i in range(2 * pending.PLACES):
        demand(torch.ones(1), lambda values: values > 1, f"kind {i}")
    with pytest.raises(ValueError, match=r"kind 3.*one of many values is not allowed"):
        c.check_pending()


def test_threads_do_not_wait_for_each_other(device):
    check_rows(GOOD)
    with pending._of[CPU].lock:  # another thread looks
        check_rows(bad_rows(torch.nan))
    failures = []

    def call():
        try:
            for _ in range(50):
                check_rows(GOOD)
                device.work()
        except ValueError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 1
    assert "NaN" in failures[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_no_faults(device):
    check_rows(bad_rows(torch.nan))
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, b"clean" if not pending._of else b"faults")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"clean"
    with pytest.raises(ValueError, match="NaN"):
        c.check_pending()


def test_a_process_that_ends_says_what_nobody_raised():
    program = """if True:
        import torch
        from catreparam.validation import check_rows
        from devices import as_device
        world = as_device()
        device = world.__enter__()
        check_rows(torch.full((2, 3), torch.nan))
        device.work()
    """
    settings = {"capture_output": True, "text": True, "check": True, "timeout": 100, "cwd": Path(__file__).parent}
    done = subprocess.run([sys.executable, "-c", program], **settings)
    assert done.stderr.startswith("catreparam: logits hold NaN")


class Counter:
    """A CUDA generator's numbers."""

    def __init__(self, seed, offset=0):
        self.seed, self.offset = seed, offset

    def initial_seed(self):
        return self.seed

    def get_offset(self):
        return self.offset

    def set_offset(self, offset):
        assert offset % 4 == 0
        self.offset = offset


def test_seeds_come_from_where_a_generator_stands_and_move_it_on():
    generator = Counter(7)
    first = [triton_autograd.take_seed(generator) for _ in range(100)]
    assert generator.offset == 400
    generator.offset = 0
    assert [triton_autograd.take_seed(generator) for _ in range(100)] == first
    others = [triton_autograd.take_seed(Counter(seed, offset)) for seed in (0, 8, 2**64 - 1) for offset in (0, 4, 8)]
    assert len({*first, *others}) == 109
    assert all(2**62 <= seed < 2**63 for seed in (*first, *others))


def test_bits_of_seeds_are_even():
    """Of 4,000 seeds at neighbouring places: every one of 62 bits, and of their changes, within 6.5 sigma of a half."""
    seeds = [triton_autograd.take_seed(Counter(seed, 4 * i)) for seed in range(2) for i in range(2000)]
    for numbers in (seeds, [a ^ b for a, b in zip(seeds, seeds[1:], strict=False)]):
        counts = [sum(number >> bit & 1 for number in numbers) for bit in range(62)]
        assert all(abs(count / len(numbers) - 0.5) < 6.5 * 0.5 / len(numbers) ** 0.5 for count in counts)


@pytest.mark.parametrize(("word", "mode"), [("1", True), ("0", False), ("immediate", "immediate")])
def test_the_environment_chooses_as_the_function_does(word, mode):
    assert pending._from_environment(word) == mode
