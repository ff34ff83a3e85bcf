"""A small GPT on token bins, in the manner of nanoGPT's train.py; one process, or several under torchrun.

python tiny_gpt.py --batch_size=8 --learning_rate=0.003
torchrun --standalone --nproc_per_node=2 tiny_gpt.py --batch_size=4
"""

import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP  # noqa: N817

import scaleexp

# defaults, each of which --name=value changes
out_dir = "out"
data_dir = "data"
eval_interval = 25
eval_iters = 4
batch_size = 8  # of a process and micro-step
gradient_accumulation_steps = 1
block_size = 32
n_layer, n_head, n_embd = 1, 2, 32
learning_rate = 3e-3
max_iters = 400
seed = 1337
for argument in sys.argv[1:]:
    name, _, value = argument.removeprefix("--").partition("=")
    assert name in globals(), f"unknown config key: {name}"
    globals()[name] = type(globals()[name])(value)

ddp = int(os.environ.get("RANK", -1)) != -1
if ddp:
    dist.init_process_group("gloo")
rank, world_size = (dist.get_rank(), dist.get_world_size()) if ddp else (0, 1)
master_process = rank == 0
torch.manual_seed(seed)
crops = torch.Generator().manual_seed(seed + 1000 * rank)


def get_batch(split, generator):
    data = np.memmap(Path(data_dir) / f"{split}.bin", dtype=np.uint16, mode="r")
    ix = torch.randint(len(data) - block_size, (batch_size,), generator=generator)
    x = torch.stack([torch.from_numpy(data[i : i + block_size].astype(np.int64)) for i in ix])
    y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + block_size].astype(np.int64)) for i in ix])
    return x, y


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.c_attn, self.c_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, n_head, C // n_head).transpose(1, 2) for t in self.c_attn(self.ln_1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(128, n_embd), nn.Embedding(block_size, n_embd)
        self.h = nn.Sequential(*[Block() for _ in range(n_layer)])
        self.ln_f, self.lm_head = nn.LayerNorm(n_embd), nn.Linear(n_embd, 128, bias=False)

    def forward(self, idx, targets):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        logits = self.lm_head(self.ln_f(self.h(x)))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
iter_num = 0
checkpoint = Path(out_dir) / "ckpt.pt"
if checkpoint.exists():
    state = torch.load(checkpoint)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    crops.set_state(state["crops"][rank])
    iter_num = state["iter_num"]
raw_model = model
if ddp:
    model = DDP(model)


@torch.no_grad()
def estimate_loss():
    held_out = torch.Generator().manual_seed(0)  # the same crops every time
    return sum(raw_model(*get_batch("val", held_out)).item() for _ in range(eval_iters)) / eval_iters


def save():
    own, states = crops.get_state(), [None] * world_size
    if ddp:
        dist.all_gather_object(states, own)
    if master_process:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        state = {"model": raw_model.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": iter_num}
        torch.save({**state, "crops": states if ddp else [own]}, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").rename(checkpoint)


B = batch_size * gradient_accumulation_steps * world_size
run = scaleexp.track(batch_size=B, lr=learning_rate, workers=world_size, seed=seed, resume_step=iter_num).begin()

while iter_num < max_iters and not run.should_stop:
    t0 = time.time()
    optimizer.zero_grad(set_to_none=True)
    lossf = 0.0
    for micro_step in range(gradient_accumulation_steps):
        last = micro_step == gradient_accumulation_steps - 1
        with model.no_sync() if ddp and not last else nullcontext():
            loss = model(*get_batch("train", crops)) / gradient_accumulation_steps
            loss.backward()
        lossf += loss.item()
    optimizer.step()
    iter_num += 1
    run.step(loss=lossf, batch_size=B)
    if iter_num % eval_interval == 0:
        val_loss = estimate_loss()
        run.evaluate(val_loss=val_loss)
        run.commit()
        save()
        if master_process:
            print(f"step {iter_num}: val loss {val_loss:.4f}, {1000 * (time.time() - t0):.1f} ms")

run.close()
if ddp:
    dist.destroy_process_group()
