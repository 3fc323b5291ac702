"""The texts of the command line's help, at the width of the terminal, and what its options are also called."""

import contextlib
import io
import shutil
import textwrap
from collections.abc import Collection, Iterator, Sequence

EXAMPLES = {
    "run vae": "ReDGE and four rivals on 5,000 MNIST digits",
    "run vae --estimators redge:num_steps=4,t1=0.5 reinmax --seeds 0 1 2": "",
    "run vae --preset demo": "three minutes on two cores, into runs/demo",
    "run vae --help": "every option",
    "run polynomial --preset quick": "128 binary variables, true losses in closed form",
    "run gmm --preset quick": "posterior of a Gaussian mixture, beside the exact one",
    "run law --preset quick --jobs 2": "is the hard sample drawn from softmax(logits)?",
    "run sudoku --preset quick": "boards solved by gradients, with and without a prior",
    "sweep vae --jobs 2": "tune every estimator, then compare the best settings",
    "data mnist": "fetch the full MNIST",
    "report runs/demo": "rebuild a report",
    "measure --objectives quadratic": "bias and variance of every estimator",
    "tune --objective my_module:my_loss": "the best setting for a loss of your own",
    "tune training --train my_module:train": "the best setting for a training of your own",
    "guide --reward class:3": "digits as image tokens, guided by a classifier",
    "guide antibody --help": "design parts of an antibody towards properties",
    "list": "estimators, data sets, experiments",
    "list redge": "defaults, ranges, bias, law and cost of one",
}

CLOSING = (
    "A run is resumed by giving the same command again. Exit codes: 0 done, 2 something to correct, 130 Ctrl-C. "
    "Set CATREPARAM_TRACEBACK=1 to see the full traceback of an error."
)

SWEEP = "Tunes every estimator (Optuna, on validation values), then runs its best setting with fresh seeds."

CITATION = """\
@article{gourevitch2026redge,
  title   = {Categorical Reparameterization with Denoising Diffusion models},
  author  = {Gourevitch, Samson and Durmus, Alain and Moulines, Eric and Olsson, Jimmy and Janati, Yazid},
  journal = {arXiv preprint arXiv:2601.00781},
  year    = {2026},
  url     = {https://arxiv.org/abs/2601.00781}
}"""

# Options of one meaning: whichever a command has is also known by the other names.
ALIASES = (
    ("--estimators", "--estimator", "--methods", "--method", "--samplers"),
    ("--lr", "--learning-rate"),
    ("--seeds", "--seed"),
)


def overview(commands: Sequence[tuple[str, str]]) -> str:
    """The help of `catreparam` alone: every command with its line, and examples."""
    lines = ["usage: catreparam COMMAND …", "", "Gradients through categorical variables: ReDGE and its rivals."]
    lines += ["", "commands:", *(wrap(f"  {name:<10}{line}", " " * 12) for name, line in commands)]
    return "\n".join([*lines, "", examples()])


def of_words(command: str, kind: str, names: Sequence[str], about: str = "") -> str:
    """The help of a command that wants a second word."""
    plural = {"study": "studies"}.get(kind, f"{kind}s")
    lines = [f"usage: catreparam {command} {kind.upper()} [options]", "", wrap(f"{plural}: {', '.join(names)}", "  ")]
    lines += [wrap(about)] * bool(about)
    lines += [f"`catreparam {command} {kind.upper()} --help` lists the options."]
    return "\n".join([*lines, "", examples()])


def examples() -> str:
    """Commands to start from, and how runs end."""
    lines = ["examples:"]
    for words, what in EXAMPLES.items():
        lines += [f"  catreparam {words}", *[f"      {what}"][: bool(what)]]
    return "\n".join([*lines, "", wrap(CLOSING)])


def wrapped(text: str, first: str = "", others: str | None = None) -> str:
    """The text in lines as wide as the terminal, indented by `first` and then by `others` (None: by `first` too)."""
    width = max(40, shutil.get_terminal_size().columns)
    others = first if others is None else others
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def wrap(text: str, indent: str = "") -> str:
    """The text in lines as wide as the terminal, paragraph by paragraph; further lines of one are indented."""
    return "\n\n".join(wrapped(part, "", indent) for part in text.split("\n\n"))


@contextlib.contextmanager
def wrapped_help(words: Collection[str]) -> Iterator[None]:
    """Where the words ask for help: what is printed inside, its lines broken at the width of the terminal."""
    if not {"-h", "--help"} & set(words):
        yield
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        print("\n".join(wrap(line.rstrip()) for line in said.getvalue().splitlines()))


def in_one_spelling(words: Sequence[str], options: Collection[str]) -> list[str]:
    """The words with every option that a command lacks replaced by the one of the same meaning that it has.

    >>> in_one_spelling(["--learning-rate=0.1", "--seed", "3"], ["--lr", "--seeds"])
    ['--lr=0.1', '--seeds', '3']
    """
    known = {name: next((one for one in group if one in options), name) for group in ALIASES for name in group}
    spelt = []
    for word in words:
        name, equals, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        spelt.append(f"{known[name]}{equals}{value}" if name in known and name not in options else word)
    return spelt
