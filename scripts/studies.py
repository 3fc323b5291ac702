"""What `reproduce.py` rebuilds: every study as a command of catreparam, its options and its search."""

from dataclasses import dataclass, replace

VAE_ESTIMATORS = "straight_through gumbel_softmax gumbel_rao:num_noises=10 reinmax redge exact_redge rloo reinmax_rloo"
POLYNOMIAL_ESTIMATORS = (
    "straight_through gumbel_softmax gumbel_rao:num_noises=10 reinmax redge reindge exact_redge rloo reinmax_rloo"
)
OURS = "reinmax_rloo"
FIVE = "straight_through gumbel_softmax reinmax redge exact_redge"
FULL_SIZE_ESTIMATORS = (
    "straight_through gumbel_softmax gumbel_rao:num_noises=10 reinmax redge redge_cov reindge "
    "exact_redge:second_order_weight=0 exact_redge lambda_reinmax"
)
TOKEN_ESTIMATORS = (
    "straight_through gumbel_softmax reinmax redge redge_cov reindge exact_redge exact_redge:t1=0.7,num_noises=4"
)
AT_DEFAULTS = FULL_SIZE_ESTIMATORS.replace(
    "exact_redge:second_order_weight=0 exact_redge", "exact_redge exact_redge:second_order_weight=1"
)
BEYOND = (
    "gumbel_softmax:temperature=0.1 gumbel_softmax:temperature=0.05 gumbel_softmax:temperature=0.02 "
    "gumbel_softmax:temperature=0.01 gumbel_rao:num_noises=10,temperature=0.1 "
    "gumbel_rao:num_noises=10,temperature=0.05 gumbel_rao:num_noises=10,temperature=0.02 redge:t1=0.3,num_steps=6 "
    "redge:t1=0.2,num_steps=6 redge:t1=0.1,num_steps=6 redge:t1=0.1,num_steps=11 redge_cov:t1=0.2,num_steps=6 "
    "redge_cov:t1=0.1,num_steps=6 redge_cov:t1=0.1,num_steps=11 exact_redge:t1=0.2,second_order_weight=0 "
    "exact_redge:t1=0.1,second_order_weight=0"
)
"""Beyond the ranges that searches look at."""
FULL_SIZE_SEARCH = "--num-trials 8 --search-seeds 1000 --lr-range 5e-4 3e-3 --vae.num-epochs"
SUDOKU = {
    "no-prior": "--priors none_excluded none",
    "reference": (
        "--priors none_excluded none --estimators redge:num_steps=2,t1=0.9 --free-lr 0.05 --free-steps "
        "2000 --restarts 1"
    ),
    "no-prior-longer": (
        "--num-puzzles 100 --levels hard --priors none_excluded --estimators straight_through --free-steps 2000 "
        "--free-samples 4 --restarts 3"
    ),
    "hard-long": "--levels hard --priors long",
    "hard-weaker": (
        "--levels hard --priors medium short untrained --estimators redge:t1=0.9 straight_through reinmax --attempts 1"
    ),
    "hard-long-reindge": "--levels hard --priors long --estimators reindge",
    "hard-weaker-rest": (
        "--levels hard --priors short medium untrained --estimators reindge gumbel_softmax redge "
        "exact_redge:second_order_weight=1.0,num_noises=2 --attempts 1"
    ),
    "no-prior-reindge": "--priors none_excluded none --estimators reindge",
    "easy-long": "--levels easy --priors long --estimators redge:t1=0.9 straight_through --attempts 1",
    "easy-weaker": (
        "--levels easy --priors medium short untrained --estimators redge:t1=0.9 straight_through --attempts 1"
    ),
    "easy-rest": (
        "--levels easy --priors short medium long untrained --estimators reindge gumbel_softmax redge reinmax "
        "exact_redge:second_order_weight=1.0,num_noises=2 --attempts 1"
    ),
    "ancestral": (
        "--levels hard --priors long --estimators redge:t1=0.9 straight_through reinmax --order "
        "ancestral --commit argmax --num-steps 50 --attempts 1"
    ),
}
"""Options of `catreparam run sudoku` for the tables of docs/sudoku.md; 1,000 puzzles if they do not say."""
RIVALS = ("straight_through", "gumbel_softmax", "gumbel_rao:num_noises=10", "reinmax", "redge", OURS)


@dataclass(frozen=True)
class Study:
    """A command, its options, the options of its search, and the titles of the plots that the documentation shows."""

    command: str
    options: str
    search: str = ""
    plots: tuple[str, ...] = ()
    seeds: str = "--seeds 0 1 2"
    title: str = ""
    settings_of: str = ""
    """The folder of docs/results whose hyperparameters it takes, if not its own."""
    asked_by: str = ""
    """The option that asks for it, "more" or "paper"; "": none is needed."""
    raw: bool = False
    """Whether the values of every run are published, by which its command would go on."""


def vae(
    num_latents: int, num_classes: int, activation: str, estimators: str = VAE_ESTIMATORS, num_epochs: int = 20
) -> Study:
    """Four draws a step; the search sees 15 of the 20 epochs."""
    return Study(
        "sweep vae",
        f"--estimators {estimators} --vae.dataset mnist5k --vae.num-latents {num_latents} "
        f"--vae.num-classes {num_classes} --vae.activation {activation} --vae.num-epochs {num_epochs} "
        "--vae.num-samples 4 --vae.num-evaluation-samples 2 --vae.iwae-samples 64",
        search="--num-trials 6 --search-seeds 1000 --lr-range 5e-4 3e-3 --vae.num-epochs 15",
        plots=("Test −ELBO", "Train −ELBO"),
        seeds="--seeds 0 1 2 3 4",
        title=f"{num_latents} codes of {num_classes}",
    )


def longer(settings_of: str, num_epochs: int, num_latents: int, num_classes: int, activation: str) -> Study:
    """A VAE study with more epochs, the settings of the shorter one, and only RIVALS."""
    study = vae(num_latents, num_classes, activation, " ".join(RIVALS), num_epochs)
    return replace(study, search="", settings_of=settings_of, asked_by="more")


def polynomial(power: str, estimators: str, search: str, given: str = "") -> Study:
    """1,000 steps, by default at learning rate 0.05 with one draw a step, as in the paper."""
    return Study(
        "sweep polynomial",
        f"--estimators {estimators} --polynomial.powers {power} {given}",
        search=f"{search} --search-seeds 1000",
        plots=("Gap to the optimum",),
    )


def full_size(
    dataset: str, estimators: str, num_epochs: int, shape: str = "48 2 leaky_relu", num_samples: int = 1, **facts: str
) -> Study:
    """The paper's network on a whole data set. `shape`: codes, classes, and the activation."""
    num_latents, num_classes, activation = shape.split()
    return Study(
        "sweep vae",
        f"--estimators {estimators} --vae.dataset {dataset} --vae.num-latents {num_latents} --vae.num-classes "
        f"{num_classes} --vae.activation {activation} --vae.batch-size 200 --vae.num-epochs {num_epochs} "
        f"--vae.num-samples {num_samples} --vae.num-evaluation-samples 2",
        plots=("Test −ELBO", "Train −ELBO"),
        asked_by="paper",
        raw=True,
        **facts,
    )


STUDIES = {
    **{
        f"polynomial-{power}": polynomial(  # two draws a step, which `rloo` needs
            power, POLYNOMIAL_ESTIMATORS, "--num-trials 6", "--polynomial.num-samples 2"
        )
        for power in ("1.5", "2", "3")
    },
    **{
        f"polynomial-one-draw-{power}": polynomial(power, FULL_SIZE_ESTIMATORS, "--num-trials 24 --lr-range 0.05 0.05")
        for power in ("1.5", "2", "3")
    },
    "polynomial-defaults": Study("run polynomial", f"--estimators {AT_DEFAULTS}", asked_by="more"),
    "polynomial-beyond": Study("run polynomial", f"--powers 1.5 --estimators {BEYOND}", asked_by="more"),
    "law": Study("run law", "", plots=("Total variation, t1 = 0.1", "Total variation, t1 = 0.5")),
    "vae-48x2": vae(48, 2, "leaky_relu"),
    "vae-reinmax-8x4": vae(4, 8, "relu"),
    "vae-reinmax-4x24": vae(24, 4, "relu"),
    # Does the order last?
    "vae-48x2-longer": longer("vae-48x2", 80, 48, 2, "leaky_relu"),
    "vae-mnist-48x2": full_size("mnist", FULL_SIZE_ESTIMATORS, 60, search=f"{FULL_SIZE_SEARCH} 20"),
    "vae-mnist-10x30": full_size(
        "mnist",
        FULL_SIZE_ESTIMATORS,
        60,
        "30 10 relu",  # ReinMax's 10 classes x 30 codes
        search=f"{FULL_SIZE_SEARCH} 10 --vae.iwae-samples 0",
    ),
    "vae-mnist-48x2-four": full_size(  # four draws a step, which RLOO needs
        "mnist",
        "reinmax reinmax_rloo rloo",
        60,
        num_samples=4,
        search=f"{FULL_SIZE_SEARCH} 10 --vae.iwae-samples 0",
    ),
    "vae-mnist-48x2-four-defaults": Study(  # untuned
        "run vae",
        "--estimators reinmax_rloo reinmax --dataset mnist --num-latents 48 --num-classes 2 --activation leaky_relu "
        "--batch-size 200 --num-epochs 60 --num-samples 4 --num-evaluation-samples 2 --lr 0.001",
        plots=("Test −ELBO",),
        asked_by="paper",
        raw=True,
    ),
    "image-tokens": Study(
        "guide",
        f"--reward class:all --estimator {TOKEN_ESTIMATORS} --rivals unguided best_of_n svdd smc entrgi "
        "--kl-weights 0.02 0.05 0.1 0.2 0.5 --num-images 100",
        plots=("Held-out accuracy against KL",),
        seeds="--seeds 0 1 2 3 4",
        asked_by="paper",
    ),
    # Does the order carry over?
    "vae-fashion-48x2": full_size("fashion_mnist", FIVE, 50, settings_of="vae-mnist-48x2"),
    **{
        f"sudoku/{name}": Study("run sudoku", f"--num-puzzles 1000 {options}", seeds="", asked_by="paper")
        for name, options in SUDOKU.items()
    },
}
