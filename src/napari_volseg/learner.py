"""Everything of a training that one step changes and a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

import torch
from torch import nn

from napari_volseg.averaging import WeightAverage
from napari_volseg.checkpoint import model_metadata
from napari_volseg.config import InstancesConfig
from napari_volseg.losses import MapLoss, build_loss, load_features
from napari_volseg.networks import N_MAPS, build_network
from napari_volseg.optimizers import build_optimizer, load_optimizer, set_rates
from napari_volseg.planning import TrainPlan
from napari_volseg.record import Record
from napari_volseg.sampling import Batch
from napari_volseg.schedules import Schedule

__all__ = ["Learner"]

_MAX_SKIPPED = 20
"""Steps in a row without a finite gradient after which training cannot go on."""


class Learner:
    """A network with its optimizer, its schedule and its record so far."""

    def __init__(self, plan: TrainPlan) -> None:
        config = plan.config
        torch.manual_seed(config.system.seed)
        self._plan = plan
        network = build_network(config.model, plan.in_channels, plan.pyramid)
        self.network = network.to(plan.compute.device)
        if plan.compute.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.loss = _build_loss(plan).to(plan.compute.device)
        self.optimizer = build_optimizer(
            nn.ModuleList([self.network, self.loss]), config.optimization
        )
        self.average = (
            WeightAverage(self.network, config.optimization.ema_decay)
            if config.optimization.ema_decay
            else None
        )
        self.scaler = torch.amp.GradScaler(
            plan.compute.device,
            enabled=plan.compute.precision == "16",
            **config.optimization.scaler.model_dump(),
        )
        self.schedule = Schedule(config.optimization, plan.steps_per_epoch)
        self.record = Record()
        self.grad_norm = 0.0
        """Norm of the last step's gradient, before it was clipped."""
        self.instances = config.instances
        """Thresholds fitted so far."""

    @property
    def step(self) -> int:
        """Steps done."""
        return self.record.step

    @property
    def elapsed(self) -> float:
        """Seconds of training, earlier sessions included."""
        return self.record.elapsed

    @property
    def result(self) -> nn.Module:
        """The network to validate, show and save: the averaged one, if there is one."""
        return self.average.network if self.average else self.network

    @property
    def progress(self) -> float:
        """Share of the budget, of steps or of minutes, that is used up."""
        minutes = self._plan.config.optimization.max_minutes
        share = self.step / self._plan.total_steps
        return max(share, self.elapsed / 60 / minutes) if minutes else share

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // self._plan.steps_per_epoch

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self.schedule.lr(self.step, self.progress)

    def learn(self, micro_batches: Sequence[Batch]) -> tuple[float, tuple[float, ...]]:
        """Do one optimizer update; return the total loss and those of the maps.

        The total is weighed by `loss_weights` alone, also under uncertainty. A step
        whose loss or gradient is not finite changes no weight, but is counted.

        Raises
        ------
        FloatingPointError
            After 20 such steps in a row.
        """
        compute = self._plan.compute
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=compute.device)
        parts = torch.zeros(N_MAPS, device=compute.device)
        for batch in micro_batches:
            image = batch.image_BCZYX.to(
                compute.device, memory_format=compute.memory_format, non_blocking=True
            )
            with compute.autocast():
                outputs = self.network(image)
            losses = self.loss(
                outputs,
                batch.targets_BCZYX.to(compute.device, non_blocking=True),
                batch.valid_BCZYX.to(compute.device, non_blocking=True),
            )
            self.scaler.scale(losses.objective / len(micro_batches)).backward()
            total += losses.total / len(micro_batches)
            parts += losses.parts / len(micro_batches)
        mean_loss = float(total)
        self._update(mean_loss)
        self.record.step += 1
        return mean_loss, tuple(parts.tolist())

    def _update(self, loss: float) -> None:
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self.network.parameters(),
            self._plan.config.optimization.gradient_clip_val or inf,
        )
        self.grad_norm = float(norm)
        if isfinite(self.grad_norm) and isfinite(loss):
            set_rates(
                self.optimizer,
                self.lr,
                self.schedule.weight_decay(self.progress),
                self.schedule.momentum(self.progress),
            )
            self.scaler.step(self.optimizer)
            if self.average:
                self.average.update(self.network)
            self.record.skipped_in_row = 0
        else:
            self._skip()
        # After a gradient that was not finite, this lowers the scale.
        self.scaler.update()

    def _skip(self) -> None:
        self.record.n_skipped += 1
        self.record.skipped_in_row += 1
        _mend_statistics(self.network)
        if self.record.skipped_in_row >= _MAX_SKIPPED:
            raise FloatingPointError(
                f"the gradient was not finite for {_MAX_SKIPPED} steps in a row: "
                "resume from the last checkpoint with a lower "
                "optimization.optimizer.lr, or with optimization.precision=32"
            )

    def metadata(self) -> dict[str, Any]:
        """Return what a model file says about itself now."""
        plan, scores = self._plan, self.record.best_metrics
        config = plan.config.model_copy(update={"instances": self.instances})
        return {
            **model_metadata(
                config,
                plan.pyramid,
                plan.in_channels,
                plan.voxel_size,
                plan.patch_size,
                self.step,
                scores,
            ),
            "score": scores.get("f1_50"),
        }

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state() if self.average else None,
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "schedule": self.schedule.state(),
            "torch_rng": torch.get_rng_state(),
            "metadata": self.metadata(),
            "instances": self.instances.model_dump(),
            "record": self.record.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on exactly where the state of a checkpoint left off.

        Raises
        ------
        DataError
            If the checkpoint is of another kind of optimizer.
        """
        config = self._plan.config.optimization
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        if self.average and state.get("average"):
            self.average.load(state["average"])
        elif self.average:  # switched on since
            self.average = WeightAverage(self.network, config.ema_decay)
        load_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"]:  # empty when the precision needed none
            self.scaler.load_state_dict(state["scaler"])
        self.schedule.load(state["schedule"])
        torch.set_rng_state(state["torch_rng"])
        self.instances = InstancesConfig(**state["instances"])
        self.record = Record.from_state(state["record"])


def _mend_statistics(network: nn.Module) -> None:
    """Start anew where a bad batch has left its mark in the running statistics."""
    for module in network.modules():
        mean = getattr(module, "running_mean", None)
        if isinstance(mean, torch.Tensor):
            variance = module.running_var
            if not bool((torch.isfinite(mean) & torch.isfinite(variance)).all()):  # type: ignore[arg-type]
                module.reset_running_stats()  # type: ignore[operator]


def _build_loss(plan: TrainPlan) -> MapLoss:
    model = plan.config.model
    path = model.loss.perceptual_model if model.loss.uses("perceptual") else None
    features = None if path is None else load_features(path)
    return build_loss(model, features=features)
