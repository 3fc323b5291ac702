"""A Lightning callback that moves schedules. Importing this module imports Lightning (extra `integrations`)."""

from collections.abc import Mapping
from typing import Any

from catreparam.extras import install

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"this callback needs Lightning; {install('integrations')}") from error

from catreparam.schedules import Schedule, ScheduledEstimator
from catreparam.validation import check_choice, check_flag


class ScheduleCallback(Callback):  # pyright: ignore[reportGeneralTypeIssues]
    """Steps schedules (or scheduled estimators) once per training batch or epoch, logs their values, saves their state.

    The state travels in Lightning's checkpoints, so that a resumed run goes on along the same curve.

    Parameters:
        schedules: what is stepped, by the name it is logged under.
        interval: "batch" or "epoch": how often.
        log: whether values are logged.

    Raises: TypeError for anything that is no schedule; ValueError for an interval other than batch or epoch.

    >>> from catreparam.schedules import LinearSchedule
    >>> t1 = LinearSchedule(0.9, 0.5, num_steps=1000)
    >>> callback = ScheduleCallback({"t1": t1}, interval="batch")
    """

    def __init__(
        self, schedules: Mapping[str, Schedule | ScheduledEstimator], *, interval: str = "batch", log: bool = True
    ) -> None:
        for name, schedule in schedules.items():
            if not isinstance(schedule, (Schedule, ScheduledEstimator)):
                raise TypeError(f"{name} must be a Schedule or a ScheduledEstimator, got {schedule!r}")
        self.schedules = dict(schedules)
        self.interval = check_choice("interval", interval, ("batch", "epoch"))
        self.log = check_flag("log", log)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lightning's hook."""
        if self.interval == "batch":
            self._step(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook."""
        if self.interval == "epoch":
            self._step(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The states of the schedules, for Lightning's checkpoint."""
        return {name: schedule.state_dict() for name, schedule in self.schedules.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undoes `state_dict`. Raises ValueError if the checkpoint knows other schedules."""
        if state_dict.keys() != self.schedules.keys():
            raise ValueError(f"the checkpoint holds schedules {sorted(state_dict)}, not {sorted(self.schedules)}")
        for name, schedule in self.schedules.items():
            schedule.load_state_dict(state_dict[name])

    def _step(self, pl_module: Any) -> None:
        for name, schedule in self.schedules.items():
            if self.log:
                values = schedule.values() if isinstance(schedule, ScheduledEstimator) else {"": schedule.value}
                pl_module.log_dict({f"{name}.{key}".rstrip("."): value for key, value in values.items()})
            schedule.step()
