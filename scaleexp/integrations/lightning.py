"""Lightning's Trainer, recorded by one callback: `Trainer(callbacks=[ScaleexpCallback(storage="runs/mine", ...)])`.

Workers and accumulation are the Trainer's; the batch, the learning rate and the seed are stated, for it does not know
them. The loss of a step is what `training_step` returned, averaged over micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch import Callback
from torch import Tensor

from scaleexp.errors import ConfigError
from scaleexp.integrations.counting import examples_in, samples_per_example
from scaleexp.run import Run
from scaleexp.tracking import settings_of, track
from scaleexp.trial_context import current_trial


class ScaleexpCallback(Callback):  # type: ignore[misc]  # no types where it is not installed
    """Records a Trainer's run with automatic optimization and one optimizer; stops it where a study says so.

    Args:
        storage: directory or address of the log; None under a study, which says it.
        batch_size: B = micro-batch x accumulate_grad_batches x devices [samples]; None under a study.
        lr: peak learning rate; likewise.
        seed: of data order and initialisation; likewise.
        unit: what a sample is; with token, `tokens_per_example` is needed.
        tokens_per_example: of every example, padding included.
        metrics: logged by `validation_step`; None for all whose name begins with val.
        targets: such as "val_loss <= 2.5".
        limit_samples: where the run ends at the latest; None for the Trainer's `max_steps`, if it has any.
        name: of the study; None for that of the script.
        watch: whether gradient norms are measured.
        noise_every: steps from one measurement to the next; None for a cadence that costs at most 5 %.
        distance: with `watch`, whether evaluations log the distance from the initialisation, for which rank 0 keeps a
            copy of the parameters.

    Raises:
        ConfigError: unit token without its number.
    """

    def __init__(
        self,
        *,
        storage: str | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        seed: int | None = None,
        unit: Literal["example", "token"] | None = None,
        tokens_per_example: int | None = None,
        metrics: Sequence[str] | None = None,
        targets: Sequence[str] = (),
        limit_samples: int | None = None,
        name: str | None = None,
        watch: bool = True,
        noise_every: int | None = None,
        distance: bool = False,
    ) -> None:
        self._stated: dict[str, Any] = {
            "storage": storage,
            "batch_size": batch_size,
            "lr": lr,
            "seed": seed,
            "unit": unit,
            "targets": targets,
            "name": name,
        }
        self._limit, self._metrics = limit_samples, metrics
        self._per_example = samples_per_example(unit, tokens_per_example)
        self._watch, self._noise_every, self._distance = watch, noise_every, distance
        self._run: Run | None = None
        self._seen, self._lr, self._losses = 0, 0.0, list[Tensor]()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, D102
        if len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            raise ConfigError("ScaleexpCallback: it records one optimizer and automatic optimization; else use track.")
        batch_size = self._stated["batch_size"]
        limit = self._limit
        if limit is None and trainer.max_steps > 0 and batch_size and not current_trial():
            limit = trainer.max_steps * batch_size
        self._run = track(
            **self._stated,
            workers=trainer.world_size,
            accumulation_steps=trainer.accumulate_grad_batches,
            hyperparameters=settings_of(trainer.optimizers[0]),
            limit_samples=limit,
            resume_step=trainer.global_step or None,
            dtype=str(trainer.precision),
        ).begin()
        if self._watch:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            self._run.watch(trainer.strategy.model, every=self._noise_every, scaler=scaler, distance=self._distance)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:  # noqa: ANN401, D102
        self._lr = float(optimizer.param_groups[0]["lr"])  # its schedule moves on before the batch ends

    def on_train_batch_end(  # noqa: D102
        self,
        trainer: Any,  # noqa: ANN401
        pl_module: Any,  # noqa: ANN401
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        run = self._run
        assert run is not None
        self._seen += examples_in(batch)
        self._losses.append((outputs["loss"] if isinstance(outputs, Mapping) else outputs).detach())
        if trainer.global_step == run.steps:
            return  # it accumulates
        batch_size, loss = self._seen * trainer.world_size * self._per_example, sum(self._losses[1:], self._losses[0])
        self._seen, self._losses = 0, []
        run.step(loss=loss, batch_size=batch_size, lr=self._lr, step=trainer.global_step)
        trainer.should_stop = trainer.should_stop or run.should_stop

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, D102
        if self._run is None or trainer.sanity_checking:
            return
        found = trainer.callback_metrics
        names = [n for n in found if n.startswith("val")] if self._metrics is None else self._metrics
        self._run.evaluate(**{name: found[name] for name in names if name in found})
        trainer.should_stop = trainer.should_stop or self._run.should_stop

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:  # noqa: ANN401, D102
        if self._run is not None:
            self._run.commit()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, D102
        run, self._run = self._run, None
        assert run is not None
        run.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ANN401, D102
        if self._run is not None:
            self._run.close(exception)
