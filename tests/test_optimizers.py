from __future__ import annotations

import pytest
import torch

from scaleexp.errors import ConfigError
from scaleexp.optimizers import make_optimizer

SHAPES = [(5, 3), (7,), (2, 3, 4)]
LRS = [0.001, 0.03, 0.2]
CASES = [
    ({"name": "sgd"}, lambda p, lr: torch.optim.SGD(p, lr=lr)),
    ({"name": "sgd", "momentum": 0.9}, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)),
    (
        {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    ({"name": "adamw"}, lambda p, lr: torch.optim.AdamW(p, lr=lr)),
    (
        {"name": "adamw", "beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.1},
        lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
]


@pytest.mark.parametrize(("spec", "reference"), CASES)
def test_stacked_optimizers_are_torch_optim_on_each_trial(spec, reference):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(len(LRS), *s, generator=generator, dtype=torch.float64) for s in SHAPES]
    ours = [p.clone() for p in start]
    optimizer = make_optimizer(spec, ours)
    theirs = [[torch.nn.Parameter(p[k].clone()) for p in start] for k in range(len(LRS))]
    references = [reference(theirs[k], lr) for k, lr in enumerate(LRS)]
    _advance(optimizer, ours, references, LRS, steps=51, generator=generator)
    optimizer.keep(torch.tensor([0, 2]))  # a trial leaves in the middle; the others take their state along
    ours = [p[[0, 2]].clone() for p in ours]
    del theirs[1], references[1]
    _advance(optimizer, ours, references, [LRS[0], LRS[2]], steps=49, generator=generator)
    for k in range(2):
        for p, q in zip(ours, theirs[k], strict=True):
            torch.testing.assert_close(p[k], q.detach(), rtol=0, atol=1e-10)


def _advance(optimizer, ours, references, lrs, *, steps, generator):
    """Both sides through the same random gradients."""
    for _ in range(steps):
        grads = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in ours]
        optimizer.update(ours, [g.clone() for g in grads], torch.tensor(lrs, dtype=torch.float64))
        for k, reference in enumerate(references):
            for p, g in zip(reference.param_groups[0]["params"], grads, strict=True):
                p.grad = g[k].clone()
            reference.step()


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ConfigError, match="'sdg'"):
        make_optimizer({"name": "sdg"}, [torch.zeros(2, 3)])
