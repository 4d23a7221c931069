"""Everything of a training that one step changes and a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from napari_volseg.checkpoint import load_model, model_metadata
from napari_volseg.config import InstancesConfig
from napari_volseg.distributed import ALONE, Group, synchronise_norms
from napari_volseg.errors import DataError
from napari_volseg.failures import JobError, is_out_of_memory
from napari_volseg.gradients import add_gradients, add_up_ranks, parts_after
from napari_volseg.intensities import Known
from napari_volseg.io import expand_home
from napari_volseg.losses import MapLoss, build_loss, load_features
from napari_volseg.networks import build_network
from napari_volseg.planning import TrainPlan
from napari_volseg.record import Record
from napari_volseg.sampling import Batch
from napari_volseg.schedules import Schedule
from napari_volseg.targets import surface_of
from napari_volseg.updating import Updater
from napari_volseg.weights import fit_weights

__all__ = ["Learner"]

_MAX_SKIPPED = 20
"""Steps in a row without a finite gradient after which training cannot go on."""


class Learner:
    """A network with its optimizer, its schedule and its record so far.

    Parameters
    ----------
    plan
        The training.
    group
        The processes that train together; all call `learn` alike.
    begin
        Take the weights of `model.initial_weights`, if there are any; otherwise the
        weights are random until `load`.

    Raises
    ------
    DataError
        If those weights cannot be read or are of another network.
    """

    def __init__(
        self, plan: TrainPlan, group: Group = ALONE, *, begin: bool = False
    ) -> None:
        config = plan.config
        self.group = group
        torch.manual_seed(config.system.seed)
        self._plan = plan
        network = build_network(config.model, plan.in_channels, plan.pyramid)
        if begin and config.model.initial_weights:
            _take_weights(network, config.model.initial_weights)
        if plan.compute.device == "cuda" and plan.micro_batches % group.size == 0:
            network = synchronise_norms(network, group)
        self.network = network.to(plan.compute.device)
        if plan.compute.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.loss = _build_loss(plan).to(plan.compute.device)
        self.updater = Updater(
            self.network,
            self.loss,
            config.optimization,
            plan.compute.device,
            plan.compute.precision,
        )
        self.schedule = Schedule(config.optimization, plan.steps_per_epoch)
        self.record = Record(steps_per_epoch=plan.steps_per_epoch)
        self.instances = config.instances
        """Thresholds fitted so far."""
        self.intensities: Known = ()
        """What the training images look like, for the model."""
        self.n_loads = 0
        """How often `load` replaced the weights."""
        self._news: list[str] = []

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
        average = self.updater.average
        return average.network if average else self.network

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradient, before it was clipped."""
        return self.updater.grad_norm

    @property
    def _on_cuda(self) -> bool:
        return self._plan.compute.device == "cuda"

    @property
    def progress(self) -> float:
        """Share of the budget, of steps or of minutes, that is used up."""
        minutes = self._plan.config.optimization.max_minutes
        share = self.record.counted / self._plan.total_steps
        return max(share, self.elapsed / 60 / minutes) if minutes else share

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.record.counted // self._plan.steps_per_epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether the last step was the last one of an epoch."""
        return self.record.counted % self._plan.steps_per_epoch == 0

    @property
    def total_steps(self) -> int:
        """Steps when all epochs are done."""
        return self._plan.total_steps - self.record.shift

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self.schedule.lr(self.step, self.progress)

    def take_news(self) -> list[str]:
        """Return what the user should know of the steps since the last call."""
        news, self._news = self._news, []
        return news

    def learn(self, micro_batches: Sequence[Batch]) -> tuple[float, tuple[float, ...]]:
        """Do one optimizer update; return the total loss and those of the maps.

        The total is weighed by `loss_weights` alone, also under uncertainty. A step
        whose loss or gradient is not finite changes no weight, but is counted.

        Parameters
        ----------
        micro_batches
            Those of this process among the step's `TrainPlan.micro_batches`.

        Raises
        ------
        JobError
            If memory does not suffice for one patch at a time.
        FloatingPointError
            After 20 such steps in a row, of which 16-mixed does not count those that
            look for a scale of the loss of at least 1.
        """
        self.network.train()
        with self.group.stepping():
            mean_loss, *parts = self._gradient(micro_batches).tolist()
            self._update(mean_loss)
        self.record.step += 1
        return mean_loss, tuple(parts)

    def _gradient(self, micro_batches: Sequence[Batch]) -> Tensor:
        """Compute the gradient of a step, in smaller batches when memory runs out.

        Returns the total loss and those of the maps, the same in all ranks.
        """
        plan = self._plan
        while True:
            self.updater.optimizer.zero_grad(set_to_none=True)
            losses = None
            try:
                losses = add_gradients(
                    self.network,
                    self.loss,
                    self.updater.scaler,
                    plan.compute,
                    micro_batches,
                    plan.micro_batches,
                    self.record.parts_per_batch,
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out here, because within the except block its traceback would keep
            # the memory; and in all ranks alike, because one may be short of it.
            if not self.group.any(losses is None) and losses is not None:
                return add_up_ranks(self.network, self.loss, losses, self.group)
            del losses
            self._use_smaller_batches()

    def _use_smaller_batches(self) -> None:
        self.updater.optimizer.zero_grad(set_to_none=True)
        if self._on_cuda:
            torch.cuda.empty_cache()
        batch_size = self._plan.config.system.training.patches_per_batch
        parts = parts_after(self.record.parts_per_batch, batch_size)
        if parts is None:
            raise JobError(
                "out of memory with one patch at a time: lower data.patch_size or "
                "model.filters, or close other programs"
            )
        self.record.parts_per_batch = parts
        self._news.append(
            f"Memory ran out. Training goes on with {batch_size // parts} patches at a "
            f"time in place of {batch_size}; their gradients are added up, so a step "
            "sees as many as before."
        )

    def _update(self, loss: float) -> None:
        schedule, record, progress = self.schedule, self.record, self.progress
        finite = self.updater.apply(
            loss,
            (self.lr, schedule.weight_decay(progress), schedule.momentum(progress)),
            lambda holds: not self.group.any(not holds),
        )
        if finite:
            record.skipped_in_row = 0
            return
        record.n_skipped += 1
        record.skipped_in_row += 1
        if record.skipped_in_row >= _MAX_SKIPPED and not self.updater.is_searching:
            raise FloatingPointError(
                f"the gradient was not finite for {record.skipped_in_row} steps"
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
                self.intensities,
            ),
            "score": scores.get("f1_50"),
        }

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "loss": self.loss.state_dict(),
            **self.updater.state(),
            "schedule": self.schedule.state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self._on_cuda else None,
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
        self.n_loads += 1
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        self.updater.load(state)
        self.schedule.load(state["schedule"])
        torch.set_rng_state(state["torch_rng"])
        if self._on_cuda and state.get("cuda_rng") is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])
        self.instances = InstancesConfig(**state["instances"])
        self.record = Record.from_state(state["record"])
        self.record.count_by(self._plan.steps_per_epoch)
        self.schedule.shift = self.record.shift
        if self._plan.config.system.training.patches_per_batch % (
            self.record.parts_per_batch
        ):
            self.record.parts_per_batch = 1


def _take_weights(network: nn.Module, file: str) -> None:
    """Give a network the weights of a model file."""
    path = expand_home(file)
    given = load_model(path).network.state_dict()
    try:
        weights, _ = fit_weights(network.state_dict(), given, path)
    except DataError as error:
        raise DataError(
            f"training cannot begin with the weights of another network: {error}; take "
            "the settings of that model's run, or set model.initial_weights=null"
        ) from None
    network.load_state_dict(weights)


def _build_loss(plan: TrainPlan) -> MapLoss:
    model = plan.config.model
    path = model.loss.perceptual_model if model.loss.uses("perceptual") else None
    features = None if path is None else load_features(path)
    surface = surface_of(plan.config.data.targets.distance_kind)
    return build_loss(model, surface=surface, features=features)
