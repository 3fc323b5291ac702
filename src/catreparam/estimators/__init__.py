"""logits -> one-hot x with a gradient (or objective, logits -> loss): one method a file, found by itself.

`facts` holds what is known of each, `registry` collects them, `expectation` is the one verb for all.
"""

# For type checkers: every name, written by scripts/exports.py (`make format`). `collect`, below, finds them by itself.
from catreparam.estimators.arsm import arsm
from catreparam.estimators.control_variates import RelaxControlVariate, rebar, relax, unbiased_redge
from catreparam.estimators.decoupled import decoupled_straight_through, decoupled_straight_through_surrogate
from catreparam.estimators.enumeration import exact
from catreparam.estimators.exact_redge import (
    exact_redge,
    exact_redge_surrogate,
    transport_redge,
    transport_redge_surrogate,
)
from catreparam.estimators.expectation import expectation
from catreparam.estimators.facts import ESTIMATORS
from catreparam.estimators.gapped import gapped_straight_through, gapped_straight_through_surrogate
from catreparam.estimators.gumbel_rao import gumbel_rao, gumbel_rao_surrogate
from catreparam.estimators.gumbel_softmax import gumbel_softmax, gumbel_softmax_surrogate
from catreparam.estimators.redge import redge, redge_cov, redge_cov_surrogate, redge_surrogate
from catreparam.estimators.registry import Estimator, collect, make_estimator, takes_objective
from catreparam.estimators.registry import fewest_samples as fewest_samples
from catreparam.estimators.reindge import reindge, reindge_surrogate
from catreparam.estimators.reinforce import MovingAverageBaseline, reinforce, rloo
from catreparam.estimators.reinmax import lambda_reinmax, lambda_reinmax_surrogate, reinmax, reinmax_surrogate
from catreparam.estimators.reinmax_rloo import reinmax_rloo
from catreparam.estimators.reinmax_variants import (
    reinmax_cv,
    reinmax_cv_surrogate,
    reinmax_rao,
    reinmax_rao_surrogate,
)
from catreparam.estimators.straight_through import straight_through, straight_through_surrogate

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "MovingAverageBaseline",
    "RelaxControlVariate",
    "arsm",
    "decoupled_straight_through",
    "decoupled_straight_through_surrogate",
    "exact",
    "exact_redge",
    "exact_redge_surrogate",
    "expectation",
    "gapped_straight_through",
    "gapped_straight_through_surrogate",
    "gumbel_rao",
    "gumbel_rao_surrogate",
    "gumbel_softmax",
    "gumbel_softmax_surrogate",
    "lambda_reinmax",
    "lambda_reinmax_surrogate",
    "make_estimator",
    "rebar",
    "redge",
    "redge_cov",
    "redge_cov_surrogate",
    "redge_surrogate",
    "reindge",
    "reindge_surrogate",
    "reinforce",
    "reinmax",
    "reinmax_cv",
    "reinmax_cv_surrogate",
    "reinmax_rao",
    "reinmax_rao_surrogate",
    "reinmax_rloo",
    "reinmax_surrogate",
    "relax",
    "rloo",
    "straight_through",
    "straight_through_surrogate",
    "takes_objective",
    "transport_redge",
    "transport_redge_surrogate",
    "unbiased_redge",
]

collect(__name__, globals())
