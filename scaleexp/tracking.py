"""`scaleexp.track`: a training script of any kind writes the log that our own loop writes, for a few lines of its own.

    with scaleexp.track(storage="runs/mine", batch_size=256, unit="example", workers=1, lr=0.1, seed=0) as run:
        run.watch(model)                                # gradient norms, for the noise scale
        for ...:
            ...                                         # forward, backward, optimizer step: the script's own
            run.step(loss=loss, batch_size=256)
            if run.should_evaluate:
                run.evaluate(val_loss=...)
            if run.should_stop:
                break

Under a study the storage, the trial and its goal come from the environment (`scaleexp.current_trial`), and what the
script states has to agree. Every process of a script makes the same calls; rank 0 writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from scaleexp.errors import ConfigError, StorageError
from scaleexp.ranks import Ranks
from scaleexp.restating import record_failure
from scaleexp.run import Run
from scaleexp.stated import Stated, settled
from scaleexp.storage import Store
from scaleexp.trial_context import TrialContext, current_trial

if TYPE_CHECKING:
    from torch.optim import Optimizer

_NO_HYPERPARAMETERS = frozenset({"lr", "foreach", "fused", "capturable", "differentiable", "maximize"})


def track(
    *,
    storage: str | None = None,
    batch_size: int | None = None,
    unit: Literal["example", "token"] | None = None,
    workers: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    accumulation_steps: int | None = None,
    name: str | None = None,
    optimizer: Optimizer | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    n_train: int | None = None,
    targets: Sequence[str] = (),
    limit_samples: int | None = None,
    evaluate_every: int | None = None,
    resume_step: int | None = None,
    dtype: str | None = None,
    data_sha256: str | None = None,
) -> Run:
    """Record the training loop of this script: a context manager.

    Alone, the first six arguments are needed, and the trial joins a study in `storage` of trials like it. Under a study
    nothing is needed, and what is stated has to be what was planned.

    Args:
        storage: directory or address of the log.
        batch_size: B = micro-batch x accumulation_steps x workers [samples].
        unit: what a sample is.
        workers: data-parallel workers.
        lr: peak learning rate.
        seed: of data order and initialisation.
        accumulation_steps: backward passes of a worker before the optimizer steps; None for 1.
        name: of the study; None for that of the script.
        optimizer: whose learning rate is logged at every step, and whose settings are the hyperparameters.
        hyperparameters: of the optimizer, the learning rate apart: any JSON.
        n_train: size of the training set [samples].
        targets: what ends the trial once the next evaluation confirms it, such as "val_loss <= 0.5".
        limit_samples: where the trial ends at the latest [samples]; None where the script ends by itself.
        evaluate_every: cadence that `run.should_evaluate` follows [samples].
        resume_step: steps that the checkpoint from which the script goes on has behind it; None where it begins.
        dtype: precision of the training, in words.
        data_sha256: of the training data.

    Raises:
        ConfigError: something is missing or nonsense, is not what the study planned, or the trial has ended.
        StorageError: the log cannot be written, or another process writes it.

    >>> track(batch_size=64)
    Traceback (most recent call last):
    ...
    scaleexp.errors.ConfigError: scaleexp.track needs storage=: the directory, or the address, that the log is written \
to. It is stated, never guessed.
    """
    planned = current_trial()
    stated = Stated(
        storage=storage,
        batch_size=batch_size,
        unit=unit,
        workers=workers,
        lr=lr,
        seed=seed,
        accumulation_steps=accumulation_steps,
        name=name,
        hyperparameters=settings_of(optimizer) if hyperparameters is None else hyperparameters,
        n_train=n_train,
        targets=targets,
        limit_samples=limit_samples,
        evaluate_every=evaluate_every,
        dtype=dtype,
        data_sha256=data_sha256,
    )
    try:
        return Run(settled(stated, planned), alone=planned is None, resume_step=resume_step, optimizer=optimizer)
    except ConfigError as error:
        if planned is not None:
            _fail(planned, error)
        raise


def _fail(planned: TrialContext, error: ConfigError) -> None:
    """Say in the study that the trial failed."""
    if Ranks.now().rank == 0:
        with suppress(StorageError):
            record_failure(Store(planned.storage), [planned.key], str(error), fence=planned.fence)


def settings_of(optimizer: Optimizer | None) -> dict[str, Any]:
    """Name and hyperparameters of an optimizer."""
    if optimizer is None:
        return {}
    plain = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in optimizer.defaults.items()
        if name not in _NO_HYPERPARAMETERS and isinstance(value, bool | int | float | str | tuple | None)
    }
    return {"name": type(optimizer).__name__.lower(), **plain}
