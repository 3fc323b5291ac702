"""A Lightning VAE with categorical codes: a line draws them, a callback anneals t1, a hook logs noise."""

import logging
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch.nn.functional import binary_cross_entropy_with_logits, gumbel_softmax
from torch.utils.data import DataLoader, TensorDataset

from catreparam import kl_to_uniform
from catreparam.integrations.gradient_variance import log_gradient_variance
from catreparam.integrations.lightning import ScheduleCallback
from catreparam.schedules import LinearSchedule, ScheduledEstimator

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class VAE(LightningModule):
    def __init__(self, draw):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 96))
        self.decoder = torch.nn.Sequential(torch.nn.Linear(96, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64))
        self.draw, self.noise = draw, []
        self.watch = log_gradient_variance(self.encoder.parameters(), self.noise.append, every=50, num_draws=8)

    def loss(self, images):
        logits = self.encoder(images).unflatten(-1, (12, 8))  # 12 variables of 8 classes
        x = self.draw(logits)  # the line that changes
        nll = binary_cross_entropy_with_logits(self.decoder(x.flatten(-2)), images, reduction="sum") / len(images)
        return nll + kl_to_uniform(logits).sum(-1).mean()

    def training_step(self, batch, _):
        self.watch(lambda: self.loss(batch[0]))
        return self.loss(batch[0])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")  # its own deprecations, and advice on workers
    images = torch.from_numpy(load_digits().data > 7).float()
    redge = ScheduledEstimator("redge", t1=LinearSchedule(0.9, 0.5, num_steps=120))
    draws = {"gumbel_softmax(hard=True)": lambda logits: gumbel_softmax(logits, hard=True), "redge, t1 annealed": redge}
    print("| draw | negative ELBO | gradient noise / signal at step 50 | at step 100 |\n|---|---:|---:|---:|")
    for name, draw in draws.items():
        seed_everything(0, verbose=False)
        model, callbacks = VAE(draw), [ScheduleCallback({"redge": redge}, log=False)] if draw is redge else []
        trainer = Trainer(max_epochs=8, callbacks=callbacks, accelerator="cpu", **QUIET)
        trainer.fit(model, DataLoader(TensorDataset(images), batch_size=128, shuffle=True))
        ratios = " | ".join(f"{row['ratio']:.2f}" for row in model.noise[1:])
        print(f"| {name} | {model.loss(images).item():.2f} | {ratios} |")


if __name__ == "__main__":
    main()
