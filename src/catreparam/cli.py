"""The command line: finds the experiment, reads its Config by tyro, prints its table. Thin; all work is elsewhere."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

from catreparam import usage
from catreparam.experiments import STUDIES
from catreparam.extras import install
from catreparam.report import Report, to_markdown
from catreparam.terminal import fail, is_watched, message_of, out_of_memory, prepare, wants_traceback
from catreparam.validation import check_choice


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code. A user's mistake gives one line on standard error, no traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    prepare()
    try:
        return _dispatch(words)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "catreparam" or wants_traceback():
            raise
        return fail(f"this needs the package {error.name}: {install('experiments')}")
    except KeyboardInterrupt as error:
        if report := getattr(error, "report", None):
            _print_report(report)
        return fail(str(error) or "interrupted", code=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, `head` say, has seen enough
        return 141
    except (MemoryError, RuntimeError) as error:
        remedy = out_of_memory(error)
        if not remedy or wants_traceback():
            raise
        return fail(remedy)
    except (ValueError, TypeError, OSError) as error:
        if report := getattr(error, "report", None):  # it could not be written: shown all the same
            _print_report(report)
        if wants_traceback():
            raise
        return fail(message_of(error))


def _dispatch(words: list[str]) -> int:
    commands = _commands()
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage.overview(described()))
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"catreparam {version('catreparam')}")
        return 0
    command, _ = commands[check_choice("command", words[0], list(commands))]
    return command(words[1:])


def described() -> list[tuple[str, str]]:
    """Every command with its line of help."""
    return [(name, line) for name, (_, line) in _commands().items()]


def _commands() -> dict[str, tuple[Callable[[list[str]], int], str]]:
    """What every command does with its words, and one line of help."""
    return {
        "run": (
            partial(_second_word, "run", "experiment", ""),
            "train or optimise: an experiment, with any estimators",
        ),
        "data": (_data, "fetch a data set, or list them"),
        "sweep": (
            partial(_second_word, "sweep", "study", usage.SWEEP),
            "tune every estimator on a study, then compare their best settings",
        ),
        "guide": (
            partial(_alone_or_second_word, "guide"),
            "guide a model by a reward: digits, maskgit (by a prompt), antibody; train the digits' networks",
        ),
        "measure": (partial(_study, "measure"), "bias, variance, law and cost of estimators on an objective"),
        "tune": (
            partial(_alone_or_second_word, "tune"),
            "the best estimator and hyperparameters for an objective, or (tune training) for a training of yours",
        ),
        "bench": (partial(_study, "bench"), "speed of every path and every installed peer"),
        "report": (_report, "rebuild the report of a run folder"),
        "list": (_list, "estimators, data sets, experiments; all about one of them"),
        "doctor": (_doctor, "which path runs here and why"),
        "build": (_build, "make small calls on the CPU faster, for this torch"),
        "cite": (_cite, "BibTeX of the method"),
    }


def _second_word(command: str, kind: str, about: str, words: list[str]) -> int:
    """Runs the study that the second word names, or says which there are."""
    names = _names(command)
    if not words or words[0] in ("-h", "--help"):
        print(usage.of_words(command, kind, names, about))
        return 0
    return _study(f"{command} {check_choice(kind, words[0], names)}", words[1:])


def _alone_or_second_word(command: str, words: list[str]) -> int:
    """A command that takes options alone; a bare word after it must be one of its own."""
    if not words or words[0].startswith("-"):
        return _study(command, words)
    return _study(f"{command} {check_choice(f'word after {command}', words[0], _names(command))}", words[1:])


def _names(command: str) -> list[str]:
    """The second words of a command."""
    return [words.partition(" ")[2] for words in STUDIES if words.startswith(f"{command} ")]


def _study(name: str, words: list[str]) -> int:
    import tyro

    from catreparam.experiments.runs.configs import at_home

    module = importlib.import_module(STUDIES[name])
    presets = getattr(module, "PRESETS", {})
    preset, words = _take_preset(words, list(presets))
    hint = f"--preset {' | '.join(presets)} replaces the defaults shown below; other options still apply on top."
    about = f"{(module.__doc__ or '').strip()}\n\n{hint if presets else ''}".strip()
    start = presets[preset] if preset else module.Config()
    words = usage.in_one_spelling(words, [f"--{field.name.replace('_', '-')}" for field in fields(module.Config)])
    with usage.wrapped_help(words):
        config = tyro.cli(module.Config, args=words, prog=f"catreparam {name}", description=about, default=start)
    report = module.run(at_home(config))
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several of us
        _print_report(report)
    return 0


def _take_preset(words: list[str], presets: Sequence[str]) -> tuple[str | None, list[str]]:
    """Takes `--preset NAME` or `--preset=NAME` out of the words; the preset becomes the default of all options."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?", const="")
    taken, rest = parser.parse_known_args(words)
    return None if taken.preset is None else check_choice("preset", taken.preset, presets), rest


def _data(words: list[str]) -> int:
    parser = _parser("data", "Fetch a data set or weights into the cache folder (CATREPARAM_DATA), or list all.")
    parser.add_argument("name", help="a data set, antiberty (weights of a language model of antibodies), or `list`")
    parser.add_argument("--from", dest="source", metavar="FILE.whl", help="antiberty: its wheel, or an address of it")
    chosen = parser.parse_args(words)
    name = chosen.name
    from catreparam.data import DATASETS, cache_folder, load_dataset
    from catreparam.data.fetch import FETCHERS
    from catreparam.listing import datasets

    if chosen.source is not None and name != "antiberty":
        raise ValueError(f"--from is for antiberty; {name} has one source")
    if name == "list":
        print(f"Cache folder: {cache_folder()}\n")
        print(datasets())
        return 0
    check_choice("data set", name, [*DATASETS, "antiberty", "list"])
    if name == "antiberty":
        from catreparam.experiments.guide.antibody.weights import fetch_antiberty

        print(f"antiberty is in {fetch_antiberty(chosen.source)}")
        return 0
    if name in FETCHERS:
        print(f"Fetching {name} …", file=sys.stderr)
        print(f"{name} is in {FETCHERS[name]()}")
    data = load_dataset(name)
    print(f"{len(data.train)} training, {len(data.validation)} validation and {len(data.test)} test images")
    return 0


def _report(words: list[str]) -> int:
    parser = _parser(
        "report", "Rebuild the report of a run folder from its metrics and checkpoints, and print its table."
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(words).folder.expanduser()
    from catreparam.experiments.runs.folder import RunFolder

    experiment = RunFolder(folder).read_config()["experiment"]
    # folders call a run by its name alone, a sweep sweep-NAME
    studies = {name.removeprefix("run ").replace("sweep ", "sweep-"): name for name in STUDIES}
    try:
        module = STUDIES[studies[check_choice("experiment", experiment, list(studies))]]
        report = importlib.import_module(module).report_folder(folder)
    except ValueError as error:
        raise error if str(folder) in str(error) else ValueError(f"{folder}: {error}") from error
    _print_report(report)
    return 0


def _list(words: list[str]) -> int:
    parser = _parser("list", "List estimators with their hyperparameters, data sets and experiments.")
    parser.add_argument("name", nargs="?", help="tell all about this one")
    name = parser.parse_args(words).name
    from catreparam.listing import about, everything

    print(about(name) if name else everything())
    return 0


def _cite(words: list[str]) -> int:
    _parser("cite", "Print how to cite the method.").parse_args(words)
    print(usage.CITATION)
    return 0


def _doctor(words: list[str]) -> int:
    _parser("doctor", "Say which path runs on which device and why, and what it depends on.").parse_args(words)
    from catreparam.experiments.doctor import diagnose, to_text

    print(to_text(diagnose()))
    return 0


def _build(words: list[str]) -> int:
    about = (
        "Compile the autograd node of the CPU kernels against the torch that is installed (half a minute, needs a C++ "
        "compiler). Optional: without it the same is done in Python, and small calls take 1.2 to 1.7 times as long. To "
        "be repeated when torch changes; `catreparam doctor` says whether it is in use."
    )
    _parser("build", about).parse_args(words)
    from catreparam.kernels.compiled import library, node

    if not library.BUILT:
        raise OSError("the compiled kernels are missing, and the node is theirs; install again with a C++ compiler")
    print(f"Built {node.build()}\nProcesses started from now on use it.")
    return 0


def _print_report(report: Report) -> None:
    if is_watched(sys.stdout):
        from catreparam.report.terminal import print_report

        print_report(report)
    else:
        print(to_markdown(report), *[f"Report: {report.location}"][: bool(report.location)], sep="\n")


def _parser(name: str, about: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"catreparam {name}", description=about)


if __name__ == "__main__":
    sys.exit(main())
