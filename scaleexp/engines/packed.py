"""K trials x W virtual workers in one process, on parameters stacked over trials.

With losses that are means over examples, W workers of worker_batch samples are one worker of B samples, so a step that
does not measure noise takes the plain large-batch path. Where statistics couple the examples of a worker (batch norm),
the layers keep the workers apart (`scaleexp.exact_layers`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from scaleexp.engines.base import FloatArray, NoiseMeasurement, StepResult, TrialState
from scaleexp.engines.choose import Compile, KernelName, briefly, choose_kernel, same_bits_in_any_pack
from scaleexp.engines.device_clock import now
from scaleexp.engines.distance import distances
from scaleexp.engines.kernels import Gradients, Trainee, evaluation_mode, weighted_mean
from scaleexp.engines.setup import linear_taps, pieces, prepared_model, restore_into, shards_of, sliced, state_of
from scaleexp.engines.stack import Stack, Stacked
from scaleexp.engines.traced import PAYS_AFTER
from scaleexp.noise_scale import shard_sizes, squared_norms_by_layer
from scaleexp.optimizers import make_optimizer
from scaleexp.sampling import derived_seed
from scaleexp.workloads.base import Batch, Workload

INPUT_BYTES_AT_ONCE = 2**28
"""Inputs of all trials that pass through the models together; larger batches are accumulated."""
EVALUATED_AT_ONCE = 4096
"""Held-out samples of a trial that pass through its model together."""
MEASURED_EVERY = 16
"""About how many steps lie between two that measure, for what is prepared before their cadence is set."""


class PackedEngine:
    """Engine of K virtual-worker trials; see `scaleexp.engines.base.Engine`.

    Args:
        workload: data, model and loss.
        seeds: seed of each trial, shape (K,).
        batch_size: B [samples], on which the choices before step 0 rest.
        workers: W virtual workers; each holds a contiguous B / W of every batch.
        optimizer: `{"name": ..., ...}` for all trials, or one of these for each, shape (K,).
        noise_shards: most shards a measured batch is cut into where norms are not taken example by example.
        threads: torch threads of this process.
        statistics_group: samples that share batch-norm statistics; None for a model without.
        per_layer: measure the gradient norms of every parameter, too.
        autocast: compute under bfloat16 autocast.
        device: where to compute.
        kernel: how to compute gradients, or `time`: time every way and keep the fastest.
        compiled: whether a compiled kernel is timed: `auto` where the pack is long enough.
        steps_ahead: the most steps to come, from which `auto` estimates that.
        samples_at_once: of each trial that pass through its model together, at most; None for what fits
            `INPUT_BYTES_AT_ONCE`.
        evaluated_at_once: likewise, of the held-out samples.
        record: `realisation` of the engine whose trials go on here; its choices are kept.

    Raises:
        ConfigError: a model that cannot be split over virtual workers exactly.
    """

    leader = True

    def __init__(
        self,
        workload: Workload,
        *,
        seeds: Sequence[int],
        batch_size: int,
        workers: int = 1,
        optimizer: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        noise_shards: int,
        threads: int = 1,
        statistics_group: int | None = None,
        per_layer: bool = False,
        autocast: bool = False,
        device: torch.device | str = "cpu",
        kernel: KernelName = "vmap",
        compiled: Compile = "auto",
        steps_ahead: int = 0,
        samples_at_once: int | None = None,
        evaluated_at_once: int = EVALUATED_AT_ONCE,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self._workload, self._workers, self._most_shards = workload, workers, noise_shards
        self._device, self._per_layer, self._size = torch.device(device), per_layer, len(seeds)
        self._group, self._steps_ahead = statistics_group, steps_ahead
        template, self._exact = prepared_model(workload, derived_seed(seeds[0], "init"), statistics_group)
        template.to(self._device)
        taps = linear_taps(workload, template, self._exact)
        trainee = Trainee(workload, template, self._exact, taps, self._device.type if autocast else None)
        self._template, self._taps = template, taps
        stack = Stack(workload, seeds, lambda s: prepared_model(workload, s, statistics_group)[0], self._device)
        sample_bytes = sum(part[k].nbytes for part in stack.batch(0, 1) for k in range(len(seeds)))
        fits = max(1, INPUT_BYTES_AT_ONCE // sample_bytes)
        most = int(record["samples_at_once"]) if record else fits
        self._at_once, self._evaluated_at_once = min(most, samples_at_once or most), evaluated_at_once
        together = max(self._pieces(batch_size))
        choice = choose_kernel(
            trainee,
            stack,
            together,
            record["kernel"] if record else kernel,
            compiled=compiled,
            held_out=self._held_out(0),
            steps_ahead=steps_ahead * len(self._pieces(batch_size)),
            evaluating=record["evaluation_kernel"] if record else None,
        )
        self._kernel, self._evaluating, self.timings = choice.kernel, choice.evaluating, dict(choice.seconds)
        rows = self._kernel.padded(range(len(seeds)), len(seeds))
        self._stack = stack.taken(rows)
        specs = [optimizer] * len(seeds) if isinstance(optimizer, Mapping) else list(optimizer)
        self._optimizer = make_optimizer([specs[r] for r in rows], list(self._stack.params.values()))
        self.n_parameters = sum(p[0].numel() for p in self._stack.params.values())
        self.realisation: dict[str, Any] = {
            "engine": "packed",
            "kernel": self._kernel.name,
            "kernel_note": choice.note,
            "evaluation_kernel": self._evaluating.name,
            "padded_to": self._kernel.least,
            "same_bits_in_any_pack": same_bits_in_any_pack(self._kernel, self._stack, together),
            "samples_at_once": self._at_once,
            "evaluated_at_once": evaluated_at_once,
            "processes": 1,
            "threads": threads,
            "device": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type,
            "noise_shards": self._shards(batch_size),
            "noise_bias": "batch_norm" if self._exact.batch_norm else "",
        }

    # -- one step -----------------------------------------------------------------------------------------------------

    def step(self, start: int, stop: int, lr: FloatArray, *, measure: bool) -> StepResult:
        """One optimizer step of every trial."""
        begin = now(self._device)
        batch = self._stack.batch(start, stop)
        gathered = now(self._device)
        found, noise = self._measured(start, batch) if measure else (self._gradients(start, batch), None)
        rates = torch.from_numpy(lr).to(self._device)
        padding = rates[-1:].expand(len(self._stack) - len(rates))
        self._optimizer.update(
            list(self._stack.params.values()), list(found.grads.values()), torch.cat([rates, padding])
        )
        if found.statistics:
            self._stack.fixed |= self._exact.updated(self._stack.fixed, found.statistics)
        loss = self._rows(found.loss)
        compute_s = now(self._device) - gathered
        return StepResult(loss=loss, noise=noise, data_s=gathered - begin, compute_s=compute_s, sync_s=0.0)

    def _rows(self, values: Tensor) -> FloatArray:
        rows: FloatArray = values[: self._size].detach().double().cpu().numpy()
        return rows

    def _pieces(self, size: int) -> tuple[int, ...]:
        """How many samples pass through the model together: all, if memory and the workload allow it."""
        return pieces(size, self._at_once, group=size if self._workload.couples_examples else self._group or 1)

    def _gradients(self, start: int, batch: Batch, *, tapped: bool = False) -> Gradients:
        """Gradient of the mean loss over a batch whose first sample has index `start`."""
        size = batch[0].shape[1]
        cuts = self._pieces(size)

        def part(at: int, n: int) -> Gradients:
            taps = self._taps.zeros(n, stacked=len(self._stack)) if self._taps and tapped else {}
            own = batch if n == size else sliced(batch, at, at + n, dim=1)
            own = self._stack.joined(own) if self._kernel.copies else own
            return self._kernel(self._stack, own, torch.tensor(start + at, device=self._device), taps)

        if len(cuts) == 1:
            return part(0, size)
        offsets = accumulate(cuts, initial=0)
        return weighted_mean((part(at, n) for at, n in zip(offsets, cuts, strict=False)), [n / size for n in cuts])

    def _measured(self, start: int, batch: Batch) -> tuple[Gradients, NoiseMeasurement | None]:
        """Gradients, and the squared norms of the shards that they are the mean of."""
        size = batch[0].shape[1]
        shards = self._shards(size)
        if shards is None:
            return self._gradients(start, batch), None
        if self._taps:
            found = self._gradients(start, batch, tapped=True)
            return found, self._noise(found.grads, {n: v.double().mean(1) for n, v in found.norms.items()}, shards)
        sizes = self._shard_sizes(size, shards)
        small: Stacked = {}

        def each() -> Iterator[Gradients]:
            for at, n in zip(accumulate(sizes, initial=0), sizes, strict=False):
                found = self._gradients(start + at, sliced(batch, at, at + n, dim=1))
                for name, norm in squared_norms_by_layer(found.grads).items():
                    small[name] = small.get(name, 0.0) + norm * (n / size)
                yield found

        found = weighted_mean(each(), [n / size for n in sizes])
        return found, self._noise(found.grads, small, shards)

    def _noise(self, grads: Stacked, small: Stacked, shards: int) -> NoiseMeasurement:
        big = squared_norms_by_layer(grads)
        layers = {n: (self._rows(small[n]), self._rows(big[n])) for n in big} if self._per_layer else None
        totals = [self._rows(torch.stack(list(norms.values())).sum(0)) for norms in (small, big)]
        return NoiseMeasurement(small=totals[0], big=totals[1], shards=shards, layers=layers)

    def _shards(self, size: int) -> int | None:
        """Into how many shards a batch of this size is cut; its examples, where their norms come for free."""
        if self._taps:
            return size if size > 1 else None
        return shards_of(
            size,
            at_most=self._most_shards,
            workers=self._workers,
            real=False,
            workload=self._workload,
            group=self._group,
        )

    def _shard_sizes(self, size: int, shards: int) -> tuple[int, ...]:
        """In the order of the samples, as workers have them that each cut their own share."""
        if size % self._workers == 0 and shards % self._workers == 0:
            return shard_sizes(size // self._workers, shards // self._workers) * self._workers
        return shard_sizes(size, shards)

    def _held_out(self, start: int) -> Batch:
        """Held-out samples that are evaluated together, from this one on."""
        batch = self._workload.eval_batch(start, min(self._workload.n_eval, start + self._evaluated_at_once))
        return tuple(part.to(self._device) for part in batch)

    # -- the pack -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> dict[str, FloatArray]:
        """Every metric of every trial on the held-out set."""
        total = self._workload.n_eval
        sums: Stacked = {}
        with evaluation_mode(self._template):
            for at in range(0, total, self._evaluated_at_once):
                part = self._evaluating.metric_sums(self._stack, self._held_out(at))
                sums = {name: sums[name] + value if sums else value for name, value in part.items()}
        return {name: self._rows(sums[name].double() / total) for name in self._workload.metrics}

    def distances(self) -> FloatArray:
        """Distance of every trial from its initialisation, which its seed gives again after a resume."""
        return self._rows(distances(self._stack.params, self._stack.begun))

    def keep(self, rows: Sequence[int]) -> None:
        """Shrink to these trials, filled up to what the kernel needs."""
        padded = self._kernel.padded(rows, len(self._stack))
        self._stack, self._size = self._stack.taken(padded), len(rows)
        self._optimizer.keep(torch.tensor(padded, device=self._device))

    def states(self, rows: Sequence[int] | None = None) -> list[TrialState]:
        """Copies of the state of these trials, or of all."""
        trained, rows = list(self._stack.params), range(self._size) if rows is None else rows
        return [state_of(row, self._stack.model, self._optimizer, trained) for row in rows]

    def restore(self, states: Sequence[TrialState]) -> None:
        """Go on from these states, one per trial."""
        assert len(states) == self._size, "one state per trial"
        padded = [states[min(row, self._size - 1)] for row in range(len(self._stack))]
        restore_into(padded, self._stack.model, self._optimizer, list(self._stack.params))

    def seconds(self, batch_size: int) -> tuple[float, float]:
        """Seconds of the gradients of a plain step and of a measuring one."""
        batch = self._stack.batch(0, batch_size)
        timed = self.timings.get(self._kernel.name) if self._pieces(batch_size) == (batch_size,) else None
        plain_s = timed or briefly(lambda: self._gradients(0, batch))
        if self._taps and self._steps_ahead >= PAYS_AFTER * MEASURED_EVERY:
            self._kernel.record(tapped=True)
        # Timed until it is warm: a cadence set by a cold run would measure too seldom for a good interval.
        return plain_s, briefly(lambda: self._measured(0, batch)) if self._shards(batch_size) else plain_s
