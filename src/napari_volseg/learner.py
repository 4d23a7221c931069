"""Everything of a training that one step changes and a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

import torch

from napari_volseg.checkpoint import model_metadata
from napari_volseg.config import InstancesConfig
from napari_volseg.losses import map_loss
from napari_volseg.networks import build_network
from napari_volseg.optimizers import Schedule, build_optimizer, set_learning_rate
from napari_volseg.planning import TrainPlan
from napari_volseg.sampling import Batch

__all__ = ["Learner"]

_MAX_SKIPPED = 20
"""Steps in a row without a finite gradient after which training cannot go on."""


class Learner:
    """A network with its optimizer, its schedule and its best score so far."""

    def __init__(self, plan: TrainPlan) -> None:
        config = plan.config
        torch.manual_seed(config.system.seed)
        self._plan = plan
        network = build_network(config.model, plan.in_channels, plan.pyramid)
        self.network = network.to(plan.compute.device)
        if plan.compute.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.network, config.optimization)
        self.scaler = torch.amp.GradScaler(
            plan.compute.device, enabled=plan.compute.precision == "16"
        )
        self.schedule = Schedule(
            config.optimization.scheduler, config.optimization.optimizer.lr
        )
        self.step = 0
        self.elapsed = 0.0
        """Seconds of training, earlier sessions included."""
        self.epoch_losses: list[float] = []
        self.last_loss = inf
        """Mean training loss of the last epoch."""
        self.lowest_loss = inf
        self.best_score = -inf
        self.best_metrics: dict[str, float] = {}
        self.stale_epochs = 0
        self.n_validations = 0
        self.instances = config.instances
        """Thresholds fitted so far."""
        self._skipped = 0

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

        A step whose gradient is not finite changes nothing but is counted.

        Raises
        ------
        FloatingPointError
            After 20 such steps in a row.
        """
        compute = self._plan.compute
        weights = self._plan.config.model.loss_weights
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=compute.device)
        parts = torch.zeros(len(weights), device=compute.device)
        for batch in micro_batches:
            image = batch.image_BCZYX.to(
                compute.device, memory_format=compute.memory_format, non_blocking=True
            )
            with compute.autocast():
                outputs = self.network(image)
            loss, losses = map_loss(
                outputs,
                batch.targets_BCZYX.to(compute.device, non_blocking=True),
                batch.valid_BCZYX.to(compute.device, non_blocking=True),
                weights,
            )
            self.scaler.scale(loss / len(micro_batches)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() / len(micro_batches)
            parts += losses / len(micro_batches)
        self._update()
        self.step += 1
        return float(total), tuple(parts.tolist())

    def _update(self) -> None:
        optimization = self._plan.config.optimization
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self.network.parameters(), optimization.gradient_clip_val or inf
        )
        finite = isfinite(float(norm))
        self._skipped = 0 if finite else self._skipped + 1
        if self._skipped >= _MAX_SKIPPED:
            raise FloatingPointError(
                f"the gradient was not finite for {_MAX_SKIPPED} steps in a row: "
                "resume from the last checkpoint with a lower "
                "optimization.optimizer.lr, or with optimization.precision=32"
            )
        if finite or self.scaler.is_enabled():
            set_learning_rate(self.optimizer, self.lr)
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def metadata(self) -> dict[str, Any]:
        """Return what a model file says about itself now."""
        plan = self._plan
        config = plan.config.model_copy(update={"instances": self.instances})
        return {
            **model_metadata(
                config,
                plan.pyramid,
                plan.in_channels,
                plan.voxel_size,
                plan.patch_size,
                self.step,
                self.best_metrics,
            ),
            "score": self.best_metrics.get("f1_50"),
        }

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "schedule": self.schedule.state(),
            "torch_rng": torch.get_rng_state(),
            "metadata": self.metadata(),
            "instances": self.instances.model_dump(),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on exactly where the state of a checkpoint left off."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.schedule.load(state["schedule"])
        torch.set_rng_state(state["torch_rng"])
        self.instances = InstancesConfig(**state["instances"])
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])


_COUNTERS = (
    "step",
    "elapsed",
    "epoch_losses",
    "last_loss",
    "lowest_loss",
    "best_score",
    "best_metrics",
    "stale_epochs",
    "n_validations",
)
