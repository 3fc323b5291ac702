"""The random numbers of the compiled kernels: known answers, laws, and the law of the hard samples."""

import math

import pytest
import torch
from scipy import stats

from catreparam.kernels.compiled import library
from catreparam.noise_schedule import make_schedule
from methods import setting_for

pytestmark = pytest.mark.skipif(not library.BUILT, reason="the compiled kernels were not built (no C++ compiler)")

FAILURE_RATE = 1e-6  # of each statistical test below, were the seeds not fixed; fewer than a hundred of them
KNOWN_ANSWERS = [  # counter, key, words: Salmon et al. 2011, Random123
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("instructions", ["generic", "avx2", "avx512"])
def test_philox_gives_the_known_answers(instructions):
    if not library.choose_instruction_set(instructions):
        pytest.skip(f"this processor has no {instructions}")
    try:
        assert [library.philox(counter, key) for counter, key, _ in KNOWN_ANSWERS] == [a for _, _, a in KNOWN_ANSWERS]
    finally:
        library.choose_instruction_set("")


@pytest.mark.parametrize(
    "setting", [setting_for("redge"), setting_for("gumbel_softmax"), setting_for("exact_redge", num_noises=7)]
)
@pytest.mark.parametrize("classes", [2, 7, 300])
def test_every_instruction_set_makes_the_same_noise(setting, classes):
    noises = []
    for name in ("generic", "avx2", "avx512"):
        if library.choose_instruction_set(name):
            noises.append(library.replay(setting, (75, classes), 9))
    library.choose_instruction_set("")
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], atol=2e-6, rtol=2e-6)


def normals(classes, rows):
    """Independent standard normals: for two classes the scaled difference, which is all that the kernel draws."""
    noise = library.replay(setting_for("redge"), (rows, classes), 12345)
    return ((noise[:, 1] - noise[:, 0]) / math.sqrt(2)) if classes == 2 else noise.flatten()


@pytest.mark.statistical
@pytest.mark.parametrize("classes", [2, 3, 10, 64, 300])
def test_normals_are_normal(classes):
    values = normals(classes, 2_000_000 // classes).double().numpy()
    assert stats.kstest(values, "norm").pvalue > FAILURE_RATE
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (5, 0), (6, 15)):
        spread = math.sqrt((math.prod(range(1, 2 * power, 2)) - moment**2) / len(values))
        assert abs((values**power).mean() - moment) < stats.norm.isf(FAILURE_RATE / 2) * spread


@pytest.mark.statistical
@pytest.mark.parametrize("classes", [3, 300])
def test_gumbels_are_gumbels(classes):
    values = library.replay(setting_for("gumbel_softmax"), (2_000_000 // classes, classes), 1).flatten().numpy()
    assert stats.kstest(values, "gumbel_r").pvalue > FAILURE_RATE


@pytest.mark.statistical
def test_differences_of_two_gumbels_are_logistic():
    noise = library.replay(setting_for("gumbel_softmax"), (1_000_000, 2), 1)
    assert stats.kstest((noise[:, 1] - noise[:, 0]).numpy(), "logistic").pvalue > FAILURE_RATE


@pytest.mark.statistical
@pytest.mark.parametrize("classes", [2, 5, 64, 300])
def test_noises_of_classes_rows_and_streams_are_uncorrelated(classes):
    noise = library.replay(setting_for("exact_redge", num_noises=5), (40_000, classes), 2)[
        :3
    ]  # three drawn, then mirrored
    noise = noise[..., 1:] - noise[..., :1] if classes == 2 else noise
    bound = stats.norm.isf(FAILURE_RATE / 2)
    for other in (
        noise.roll(1, 0),
        noise.roll(1, 1),
        noise.roll(16, 1),
        noise.roll(1, 2) if classes > 2 else noise.roll(2, 1),
    ):
        product = noise * other / noise.var()
        assert abs(product.mean()) < bound * product.std() / math.sqrt(product.numel())


@pytest.mark.statistical
@pytest.mark.parametrize("classes", [2, 3, 5, 16, 17, 100, 130, 1000])
@pytest.mark.parametrize(
    "setting", [setting_for("straight_through"), setting_for("gumbel_softmax"), setting_for("exact_redge", (0.0, 1.0))]
)
def test_hard_samples_follow_softmax_of_the_logits(setting, classes):
    logits = torch.randn(classes, generator=torch.Generator().manual_seed(0))
    rows = 1_000_000 if classes < 20 else 200_000
    counts = library.forward(setting, logits.expand(rows, classes), 77)[0].sum(0).double()
    wanted = rows * torch.softmax(logits.double(), -1)
    assert stats.chisquare(counts.numpy(), (wanted / wanted.sum() * counts.sum()).numpy()).pvalue > FAILURE_RATE


@pytest.mark.statistical
@pytest.mark.parametrize("classes", [2, 7, 300])
def test_hard_samples_of_redge_follow_its_relaxed_samples(classes):
    setting = setting_for("redge", make_schedule("alpha", 4, 0.5).lambdas)
    logits = torch.randn(classes, generator=torch.Generator().manual_seed(0)).expand(100_000, classes)
    hard = library.forward(setting, logits, 5)[0]
    soft = library.forward(setting._replace(hard=False), logits, 5)[0]
    wanted = soft.double().sum(0)
    assert (
        stats.chisquare(hard.double().sum(0).numpy(), (wanted / wanted.sum() * 100_000).numpy()).pvalue > FAILURE_RATE
    )


@pytest.mark.statistical
def test_rare_classes_keep_their_share():
    for classes in (2, 4, 200):
        logits = torch.full((4_000_000 if classes < 200 else 400_000, classes), -torch.inf)
        logits[:, 0], logits[:, -1] = 0.0, -8.0
        count = library.forward(setting_for("straight_through"), logits, 3)[0][:, -1].sum().item()
        assert stats.binomtest(int(count), len(logits), 1 / (1 + math.exp(8.0))).pvalue > FAILURE_RATE
