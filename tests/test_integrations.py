"""A framework's loop, recorded by one line, writes what happened: its losses, its batches, its evaluations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import analysis.read
from scaleexp import schema
from scaleexp.errors import ConfigError
from scaleexp.integrations.counting import samples_per_example
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from scaleexp.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks, about what they import
N, MICRO, ACCUMULATION = 48, 4, 2
B = MICRO * ACCUMULATION


class Points(Dataset):
    """Regression on eight inputs, as mappings."""

    def __init__(self, size):
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(size, 8, generator=draw)
        self.y = self.x[:, :1] - 0.5 * self.x[:, 1:2]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "labels": self.y[i]}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x, labels=None):
        return {"loss": nn.functional.mse_loss(self.net(x), labels), "out": self.net(x)}


def rows(root, table="steps"):
    log = analysis.read.load(root)
    assert log.problems == ()
    return analysis.read.read_table(log, table, [c.name for c in schema.TABLES[table]], None).to_pylist()


def only_commit(root):
    (key,) = Store(root).names("trials")
    return last_commit(Store(root), key)


def distances_in(tmp_path):
    return {r["step"]: r["value"] for r in rows(tmp_path / "log", "evals") if r["metric"] == "distance_from_init"}


# -- Hugging Face ------------------------------------------------------------------------------------------------------


def hf_trainer(tmp_path, *, size=N, steps=12, resume=False, **more):
    transformers = pytest.importorskip("transformers")
    from scaleexp.integrations.huggingface import ScaleexpCallback

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=MICRO,
        gradient_accumulation_steps=ACCUMULATION,
        learning_rate=0.05,
        lr_scheduler_type="linear",
        max_grad_norm=0.1,
        max_steps=steps,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=5,
        optim="adamw_torch",
        seed=7,
    )
    seen = {"losses": [], "rates": []}

    class Seeing(transformers.Trainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            seen["losses"].append(float(loss))
            return loss

    trainer = Seeing(model=Net(), args=arguments, train_dataset=Points(size), eval_dataset=Points(16))
    trainer.add_callback(ScaleexpCallback(trainer, storage=str(tmp_path / "log"), noise_every=3, **more))
    return trainer, seen


def test_a_hugging_face_trainer_is_recorded_step_by_step(tmp_path):
    trainer, seen = hf_trainer(tmp_path)
    trainer.train()
    found = rows(tmp_path / "log")
    assert [row["step"] for row in found] == list(range(1, 13))
    assert {(r["batch_size"], r["micro_batch"], r["accumulation_steps"], r["workers"]) for r in found} == {(8, 4, 2, 1)}
    assert [row["loss"] for row in found] == pytest.approx([sum(seen["losses"][i : i + 2]) for i in range(0, 24, 2)])
    assert [row["step_lr"] for row in found] == pytest.approx([0.05 * (12 - n) / 12 for n in range(12)])
    evals = rows(tmp_path / "log", "evals")
    assert [(row["step"], row["metric"]) for row in evals] == [(4, "eval_loss"), (8, "eval_loss"), (12, "eval_loss")]
    assert [row["step"] for row in found if row["shards"] == 2] == [1, 4, 7, 10]
    measured = [row for row in found if row["grad_sq_big"] is not None]
    assert max(row["grad_sq_big"] for row in measured) > 0.011  # above the square of max_grad_norm: before clipping
    commit = only_commit(tmp_path / "log")
    assert (commit["status"], commit["step"]) == ("limit", 12)
    assert verify(Store(tmp_path / "log")) == []
    facts = analysis.read.load(tmp_path / "log").trials[0].facts
    assert (facts["optimizer"]["name"], facts["seed"], facts["n_train"]) == ("adamw", 7, N)


def test_a_confirmed_target_stops_a_hugging_face_trainer(tmp_path):
    trainer, _ = hf_trainer(tmp_path, targets=["eval_loss <= 100"], distance=True)
    begun = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    commit = only_commit(tmp_path / "log")
    assert (commit["status"], commit["step"], trainer.state.global_step) == ("reached", 8, 8)
    moved = torch.cat([(p - b).ravel() for p, b in zip(trainer.model.parameters(), begun, strict=True)]).norm()
    assert distances_in(tmp_path)[8] == pytest.approx(float(moved), rel=1e-5)


def test_a_hugging_face_trainer_goes_on_from_its_checkpoint(tmp_path):
    trainer, _ = hf_trainer(tmp_path)

    class Broken(type(trainer.callback_handler.callbacks[0])):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 6:
                raise ZeroDivisionError

    trainer.add_callback(Broken())
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    own = next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == "ScaleexpCallback")
    own._run.close(ZeroDivisionError())
    trainer, _ = hf_trainer(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    found = rows(tmp_path / "log")
    assert [row["step"] for row in found] == list(range(1, 13))
    assert [row["attempt"] for row in found] == [0] * 4 + [1] * 8


def test_a_checkpoint_of_a_hugging_face_trainer_has_the_evaluation_of_its_step_behind_it(tmp_path):
    """Whoever kills the Trainer after it has saved loses nothing that it will not do again."""
    trainer, _ = hf_trainer(tmp_path)
    seen = []

    class Looking(type(trainer.callback_handler.callbacks[0])):
        def on_save(self, args, state, control, **kwargs):
            seen.append([row["step"] for row in rows(tmp_path / "log", "evals")])

    trainer.add_callback(Looking())
    trainer.train()
    assert seen == [[4], [4, 8], [4, 8, 12]]


def test_a_model_that_raises_fails_the_run_of_a_hugging_face_trainer(tmp_path):
    trainer, _ = hf_trainer(tmp_path)
    forward, calls = trainer.model.forward, []

    def breaking(x, labels=None):
        calls.append(1)
        if len(calls) > 6:
            raise ZeroDivisionError("of the model")
        return forward(x, labels)

    trainer.model.forward = breaking
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    commit = only_commit(tmp_path / "log")
    assert (commit["status"], commit["cause"]) == ("failed", "ZeroDivisionError: of the model (after step 3)")


def test_the_log_that_a_trainer_keeps_itself_and_the_tracked_one_give_the_same_run(tmp_path):
    """Old logs, read by the importers, stand beside new ones."""
    from dataclasses import replace

    from analysis.sources.curves import read_curves, runs_against
    from analysis.targets import runs_to_target

    trainer, _ = hf_trainer(tmp_path, targets=["eval_loss <= 0.01"])
    trainer.train()
    old = read_curves(tmp_path / "out", metric="eval_loss", unit="example", batch_size=B, run_pattern="out")
    new = analysis.read.load(tmp_path / "log")
    values = [row["value"] for row in rows(tmp_path / "log", "evals")]
    target = (values[0] + values[1]) / 2  # confirmed by the third
    (imported,), (tracked,) = runs_against(old, target), runs_to_target(new, "eval_loss", target, "min")
    assert (tracked.reached, tracked.samples) == (True, 48.0)
    unsaid = {"key": "", "lr": 0.05, "seed": 7, "status": ""}  # the Trainer's state has no seed and no peak LR
    assert replace(imported, **unsaid) == replace(tracked, **unsaid)


def test_tokens_are_counted_where_they_are_stated(tmp_path):
    trainer, _ = hf_trainer(tmp_path, unit="token", tokens_per_example=100)
    trainer.train()
    assert {row["batch_size"] for row in rows(tmp_path / "log")} == {800}
    with pytest.raises(ConfigError, match="goes with tokens_per_example"):
        hf_trainer(tmp_path, unit="token")


@pytest.mark.parametrize(("unit", "tokens"), [("token", None), ("example", 8), (None, 8)])
def test_tokens_of_an_example_and_the_unit_token_come_together(unit, tokens):
    with pytest.raises(ConfigError, match="goes with tokens_per_example"):
        samples_per_example(unit, tokens)


def test_a_smaller_batch_at_the_end_of_an_epoch_is_refused_before_it_trains(tmp_path):
    trainer, _ = hf_trainer(tmp_path, size=N + 3)
    with pytest.raises(ConfigError, match=r"of 51 examples is no multiple of the batch of 8.*select\(range\(48\)\)"):
        trainer.train()


# -- Lightning ---------------------------------------------------------------------------------------------------------


def lightning_fit(tmp_path, *, steps=12, checkpoint=None, break_at=None, **more):
    lightning = pytest.importorskip("lightning.pytorch")
    from scaleexp.integrations.lightning import ScaleexpCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.losses = Net(), []

        def training_step(self, batch, index):
            if self.global_step == break_at:
                raise ZeroDivisionError
            loss = self.net(**batch)["loss"]
            self.losses.append(loss.item())
            return loss

        def validation_step(self, batch, index):
            self.log("val_loss", self.net(**batch)["loss"])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    stated = {"storage": str(tmp_path / "log"), "batch_size": B, "lr": 0.05, "seed": 0, "unit": "example"}
    saving = lightning.callbacks.ModelCheckpoint(dirpath=tmp_path / "out", every_n_train_steps=4, save_top_k=-1)
    trainer = lightning.Trainer(
        max_steps=steps,
        accumulate_grad_batches=ACCUMULATION,
        gradient_clip_val=0.1,
        accelerator="cpu",
        callbacks=[ScaleexpCallback(**{**stated, "noise_every": 3, **more}), saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=8,
        check_val_every_n_epoch=None,
        default_root_dir=tmp_path,
    )
    module = Module()
    trainer.fit(module, DataLoader(Points(N), MICRO), DataLoader(Points(16), 16), ckpt_path=checkpoint)
    return trainer, module


def test_a_lightning_trainer_is_recorded_step_by_step(tmp_path):
    _, module = lightning_fit(tmp_path)
    found = rows(tmp_path / "log")
    assert [row["step"] for row in found] == list(range(1, 13))
    assert [row["loss"] for row in found] == pytest.approx([sum(module.losses[i : i + 2]) / 2 for i in range(0, 24, 2)])
    assert [row["step_lr"] for row in found] == pytest.approx([0.05 * 0.5**n for n in range(12)])
    assert [row["step"] for row in found if row["shards"] == 2] == [1, 4, 7, 10]
    assert found[0]["grad_sq_big"] > 0.011  # before clipping
    assert [(row["step"], row["metric"]) for row in rows(tmp_path / "log", "evals")] == [
        (4, "val_loss"),
        (8, "val_loss"),
        (12, "val_loss"),
    ]
    commit = only_commit(tmp_path / "log")
    assert (commit["status"], commit["step"]) == ("limit", 12)


def test_a_confirmed_target_stops_a_lightning_trainer(tmp_path):
    trainer, _ = lightning_fit(tmp_path, targets=["val_loss <= 100"], distance=True)
    commit = only_commit(tmp_path / "log")
    assert (commit["status"], commit["step"], trainer.global_step) == ("reached", 8, 8)
    assert 0.0 < distances_in(tmp_path)[4] < distances_in(tmp_path)[8]


def test_a_lightning_trainer_goes_on_from_its_checkpoint(tmp_path):
    with pytest.raises(ZeroDivisionError):
        lightning_fit(tmp_path, break_at=6)
    assert only_commit(tmp_path / "log")["status"] == "failed"
    (saved,) = (tmp_path / "out").glob("*step=4.ckpt")
    lightning_fit(tmp_path, checkpoint=saved)
    found = rows(tmp_path / "log")
    assert [row["step"] for row in found] == list(range(1, 13))
    assert [row["attempt"] for row in found] == [0] * 4 + [1] * 8


def test_a_lightning_batch_that_is_not_the_stated_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Step 1 ate 8 samples and 16 were stated"):
        lightning_fit(tmp_path, batch_size=16)
    assert only_commit(tmp_path / "log")["status"] == "failed"
