"""logits -> one-hot x with a gradient (or objective, logits -> loss): one method a file, found by itself.

`facts` holds what is known of each, `registry` collects them, `expectation` is the one verb for all.
"""

from typing import TYPE_CHECKING

from catreparam.estimators.expectation import expectation as expectation
from catreparam.estimators.facts import ESTIMATORS as ESTIMATORS
from catreparam.estimators.registry import Estimator as Estimator
from catreparam.estimators.registry import collect
from catreparam.estimators.registry import fewest_samples as fewest_samples
from catreparam.estimators.registry import make_estimator as make_estimator
from catreparam.estimators.registry import takes_objective as takes_objective

if TYPE_CHECKING:  # `collect` imports every file of this folder; type checkers want them named
    from catreparam.estimators.arsm import *
    from catreparam.estimators.control_variates import *
    from catreparam.estimators.decoupled import *
    from catreparam.estimators.enumeration import *
    from catreparam.estimators.exact_redge import *
    from catreparam.estimators.gapped import *
    from catreparam.estimators.gumbel_rao import *
    from catreparam.estimators.gumbel_softmax import *
    from catreparam.estimators.redge import *
    from catreparam.estimators.reindge import *
    from catreparam.estimators.reinforce import *
    from catreparam.estimators.reinmax import *
    from catreparam.estimators.reinmax_rloo import *
    from catreparam.estimators.reinmax_variants import *
    from catreparam.estimators.straight_through import *

collect(__name__, globals(), also=("ESTIMATORS", "Estimator", "expectation", "make_estimator", "takes_objective"))
