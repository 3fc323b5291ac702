"""Where an estimator meets an objective: a package a study, a frozen Config and run(config) -> Report in each.

They share `runs`, which imports none of them, and do not know each other; `sweep` alone tunes two of them.
"""

# Words after `catreparam` -> a module with Config and run(config) -> Report, maybe PRESETS; all but the last four make
# run folders and have report_folder(path) -> Report too.
STUDIES = {
    "run vae": "catreparam.experiments.vae.study",
    "run polynomial": "catreparam.experiments.closed_form.polynomial",
    "run gmm": "catreparam.experiments.closed_form.gmm",
    "run law": "catreparam.experiments.law.study",
    "run sudoku": "catreparam.experiments.sudoku.study",
    "run sudoku-prior": "catreparam.experiments.sudoku.train",
    "sweep vae": "catreparam.experiments.sweep.vae",
    "sweep polynomial": "catreparam.experiments.sweep.polynomial",
    "sweep gmm": "catreparam.experiments.sweep.gmm",
    "guide": "catreparam.experiments.guide.study",
    "guide train": "catreparam.experiments.guide.train",
    "guide antibody": "catreparam.experiments.guide.antibody.study",
    "guide maskgit": "catreparam.experiments.guide.maskgit",
    "measure": "catreparam.experiments.gradients.measure",
    "tune": "catreparam.experiments.gradients.tune",
    "tune training": "catreparam.experiments.gradients.tune_training",
    "bench": "catreparam.experiments.bench.study",
}
