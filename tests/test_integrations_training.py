"""What goes into training loops: the hook that logs gradient variance, Lightning's callback that moves schedules."""

import pytest
import torch

from catreparam import reinmax
from catreparam.gradients import measure
from catreparam.integrations.gradient_variance import gradient_variance, log_gradient_variance
from catreparam.integrations.lightning import ScheduleCallback
from catreparam.schedules import LinearSchedule, ScheduledEstimator
from methods import seeded, smooth_loss

LOGITS = torch.randn(4, generator=seeded(1))


@pytest.mark.statistical
def test_gradient_variance_is_the_variance_of_the_estimator():
    """Against `measure`, within 6 of the latter's standard errors (2,000 draws each)."""
    logits, generator = LOGITS.clone().requires_grad_(), seeded(3)
    found = gradient_variance(lambda: smooth_loss(reinmax(logits, generator=generator)), [logits], num_draws=2000)
    wanted = measure(smooth_loss, LOGITS, estimator="reinmax", num_draws=2000, generator=seeded(4))
    assert found.ratio == pytest.approx(wanted.variance, abs=12 * wanted.variance_stderr)
    assert found.num_draws == 2000


def test_gradient_variance_is_exact_on_known_gradients():
    parameter, unused = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    slopes = iter(torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 2.0]]))
    found = gradient_variance(lambda: (parameter * next(slopes)).sum(), [parameter, unused], num_draws=3)
    assert found.variance == pytest.approx(4 + 4)
    assert found.squared_norm == pytest.approx(9 + 4 - 8 / 3)
    assert found.ratio == pytest.approx(8 / (13 - 8 / 3))


def test_the_hook_measures_its_turns_and_leaves_training_alone():
    def train(watched):
        torch.manual_seed(0)
        logits, rows = LOGITS.clone().requires_grad_(), []
        watch = log_gradient_variance([logits], rows.append, every=3, num_draws=2)
        optimizer = torch.optim.SGD([logits], lr=0.1)
        for _ in range(7):
            if watched:
                watch(lambda: smooth_loss(reinmax(logits)))
            optimizer.zero_grad()
            smooth_loss(reinmax(logits)).backward()
            optimizer.step()
        return logits.detach(), rows

    with torch.random.fork_rng():
        (plain, _), (watched, rows) = train(False), train(True)
    assert torch.equal(plain, watched)
    assert [row["step"] for row in rows] == [0, 3, 6]
    assert set(rows[0]) == {"step", "variance", "squared_norm", "ratio", "num_draws"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradient_variance(lambda: LOGITS.sum(), [LOGITS]), "no tensor that requires a gradient"),
        (lambda: gradient_variance(LOGITS.sum, [LOGITS.clone().requires_grad_()], num_draws=1), "num_draws must be"),
        (lambda: gradient_variance(lambda: LOGITS, [LOGITS.clone().requires_grad_()]), r"a scalar, got shape \(4,\)"),
        (lambda: log_gradient_variance([LOGITS], print, every=0), "every must be at least 1"),
        (lambda: ScheduleCallback({}, interval="step"), "unknown interval 'step'"),
        (
            lambda: ScheduleCallback({"a": LinearSchedule(1, 0, num_steps=2)}).load_state_dict({}),
            r"schedules \[\], not",
        ),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_loss_that_is_no_function_is_refused_at_every_call():
    logits = torch.zeros(3, requires_grad=True)
    with pytest.raises(TypeError, match=r"loss must be a function.*got Tensor; wrap what computes the loss"):
        gradient_variance(logits.sum(), [logits])
    watch = log_gradient_variance([logits], print, every=5)
    watch.num_calls = 1  # not its turn
    with pytest.raises(TypeError, match="got Tensor"):
        watch(logits.sum())


def test_the_callback_wants_schedules():
    with pytest.raises(TypeError, match="t1 must be a Schedule"):
        ScheduleCallback({"t1": 0.5})


@pytest.mark.filterwarnings("ignore::Warning")  # Lightning's advice and deprecations
@pytest.mark.parametrize(("interval", "wanted"), [("batch", 8), ("epoch", 2)])
def test_lightning_steps_the_schedule_logs_it_and_resumes_it(interval, wanted, tmp_path):
    from lightning.pytorch import LightningModule, Trainer

    class Model(LightningModule):
        def __init__(self, estimator):
            super().__init__()
            self.logits, self.estimator, self.seen = torch.nn.Parameter(LOGITS.clone()), estimator, []

        def training_step(self, batch, _):
            self.seen.append(self.estimator.schedules["t1"].value)
            return smooth_loss(self.estimator(self.logits))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(max_epochs, checkpoint=None):
        estimator = ScheduledEstimator("redge", t1=LinearSchedule(0.9, 0.5, num_steps=100))
        weight = LinearSchedule(0.0, 1.0, num_steps=100)
        callback = ScheduleCallback({"redge": estimator, "weight": weight}, interval=interval)
        settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        trainer = Trainer(max_epochs=max_epochs, callbacks=[callback], enable_model_summary=False, **settings)
        model = Model(estimator)
        trainer.fit(model, torch.utils.data.DataLoader(torch.zeros(4, 1)), ckpt_path=checkpoint)
        return trainer, model, callback

    trainer, model, callback = fit(2)
    assert callback.schedules["weight"].num_taken == wanted
    assert callback.schedules["redge"].schedules["t1"].num_taken == wanted
    assert trainer.logged_metrics.keys() >= {"redge.t1", "weight"}
    assert len(set(model.seen)) == (8 if interval == "batch" else 2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    _, model, callback = fit(3, tmp_path / "last.ckpt")
    assert callback.schedules["weight"].num_taken == wanted * 3 // 2
    assert model.seen[0] == pytest.approx(0.9 - 0.4 * wanted / 100)
