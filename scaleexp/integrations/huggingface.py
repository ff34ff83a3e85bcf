"""Hugging Face's Trainer, recorded by one line: `trainer.add_callback(ScaleexpCallback(trainer, storage="runs/mine"))`.

Batch, workers, accumulation, learning rate, seed and limit are those of its `TrainingArguments`; the loss of a step is
what its `training_step` returned, summed over micro-batches, before any averaging for its own log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor
from transformers import TrainerCallback

from scaleexp.errors import ConfigError
from scaleexp.integrations.counting import examples_in, samples_per_example
from scaleexp.run import Run
from scaleexp.tracking import settings_of, track
from scaleexp.trial_context import current_trial

_OF_THE_EVALUATION = ("_runtime", "_per_second", "_compilation_time")
"""Ends of what `on_evaluate` reports besides metrics."""


class ScaleexpCallback(TrainerCallback):  # type: ignore[misc]  # no types where it is not installed
    """Records a Trainer's run, its evaluations and, by hooks, its gradient norms; stops it where a study says so.

    Args:
        trainer: which.
        storage: directory or address of the log; None under a study, which says it.
        unit: what a sample is; with token, `tokens_per_example` is needed.
        tokens_per_example: of every example, padding included.
        targets: such as "eval_loss <= 2.5".
        name: of the study; None for that of the script.
        watch: whether gradient norms are measured.
        noise_every: steps from one measurement to the next; None for a cadence that costs at most 5 %.
        distance: with `watch`, whether evaluations log the distance from the initialisation, for which rank 0 keeps a
            copy of the parameters.

    Raises:
        ConfigError: settings whose batches are not all of one size, or unit token without its number.
    """

    def __init__(
        self,
        trainer: Any,  # noqa: ANN401  # transformers.Trainer
        *,
        storage: str | None = None,
        unit: Literal["example", "token"] = "example",
        tokens_per_example: int | None = None,
        targets: Sequence[str] = (),
        name: str | None = None,
        watch: bool = True,
        noise_every: int | None = None,
        distance: bool = False,
    ) -> None:
        self._trainer, self._storage, self._unit, self._targets = trainer, storage, unit, targets
        self._per_example, self._name = samples_per_example(unit, tokens_per_example), name
        self._watch, self._noise_every, self._distance = watch, noise_every, distance
        self._run: Run | None = None
        self._seen, self._lr, self._losses = 0, 0.0, list[Tensor]()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, D102
        trainer, planned = self._trainer, current_trial()
        if args.n_gpu > 1:
            raise ConfigError("ScaleexpCallback: one process drives several GPUs; start one per GPU with torchrun.")
        examples = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        n_train = _size(trainer.train_dataset)
        self._check_epochs(args, state, examples, n_train)
        batch_size = examples * self._per_example
        self._run = track(
            storage=self._storage,
            batch_size=batch_size,
            unit=self._unit,
            workers=args.world_size,
            accumulation_steps=args.gradient_accumulation_steps,
            lr=args.learning_rate,
            seed=args.seed,
            name=self._name,
            hyperparameters=settings_of(getattr(trainer.optimizer, "optimizer", trainer.optimizer)),
            n_train=None if n_train is None else n_train * self._per_example,
            targets=self._targets,
            limit_samples=None if planned else state.max_steps * batch_size,
            resume_step=state.global_step or None,
            dtype="bf16 autocast" if args.bf16 else "fp16 autocast" if args.fp16 else None,
        ).begin()
        if self._watch:
            scaler = getattr(trainer.accelerator, "scaler", None)
            self._run.watch(trainer.model_wrapped, every=self._noise_every, scaler=scaler, distance=self._distance)
        self._plain = trainer.training_step
        trainer.training_step = self._training_step

    def _check_epochs(self, args: Any, state: Any, examples: int, n_train: int | None) -> None:  # noqa: ANN401
        """Refuse what ends an epoch with a smaller batch."""
        whole = args.dataloader_drop_last and args.gradient_accumulation_steps == 1
        if n_train is None or n_train % examples == 0 or whole or state.max_steps <= n_train // examples:
            return
        raise ConfigError(
            f"The training set of {n_train} examples is no multiple of the batch of {examples}, so that every epoch "
            f"ends with a smaller batch: train on {n_train - n_train % examples}, such as "
            f"train_dataset.select(range({n_train - n_train % examples}))."
        )

    def _training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Tensor:  # noqa: ANN401
        assert self._run is not None
        with self._run.failing():
            self._seen += examples_in(inputs)
            loss: Tensor = self._plain(model, inputs, *more, **named)
        self._losses.append(loss.detach())
        return loss

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, D102
        self._lr = float(self._trainer.optimizer.param_groups[0]["lr"])  # its schedule moves on before a step's end

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, D102
        run = self._run
        assert run is not None
        batch_size = self._seen * args.world_size * self._per_example
        loss = sum(self._losses[1:], self._losses[0])
        self._seen, self._losses = 0, []
        with run.failing():
            run.step(loss=loss, batch_size=batch_size, lr=self._lr, step=state.global_step)
        if run.should_evaluate and self._trainer.eval_dataset is not None:
            control.should_evaluate = True
        control.should_training_stop = control.should_training_stop or run.should_stop
        self._commit_before_saving(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, D102
        self._commit_before_saving(control)

    def _commit_before_saving(self, control: Any) -> None:  # noqa: ANN401
        if control.should_save and self._run is not None:
            self._run.commit()

    def on_evaluate(  # noqa: D102
        self,
        args: Any,  # noqa: ANN401
        state: Any,  # noqa: ANN401
        control: Any,  # noqa: ANN401
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        if self._run is None:
            return
        self._run.evaluate(
            **{
                name: value
                for name, value in (metrics or {}).items()
                if isinstance(value, int | float) and not name.endswith(_OF_THE_EVALUATION) and name != "epoch"
            }
        )
        control.should_training_stop = control.should_training_stop or self._run.should_stop
        self._commit_before_saving(control)  # the checkpoint that follows has this evaluation behind it, too

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, D102
        self._trainer.training_step = self._plain
        run, self._run = self._run, None
        assert run is not None
        run.close()


def _size(dataset: Any) -> int | None:  # noqa: ANN401
    """Examples of a data set; None of a stream."""
    return len(dataset) if hasattr(dataset, "__len__") else None
