"""A language model trained by Hugging Face's Trainer, from random weights, on real text that every Python carries.

python hf_trainer.py --learning_rate 0.003 --per_device_train_batch_size 8 --max_steps 200 --output_dir out
"""

from pathlib import Path
from pydoc_data.topics import topics

import torch
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from scaleexp.integrations.huggingface import ScaleexpCallback

LENGTH = 32  # characters of an example


def examples(text):
    rows = torch.tensor(list(text.encode()[: len(text) // LENGTH * LENGTH])).reshape(-1, LENGTH) % 128
    return [{"input_ids": row, "labels": row} for row in rows]


(arguments,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)  # every process looks for a checkpoint in it
text = "".join(topics[name] for name in sorted(topics))
torch.manual_seed(arguments.seed)
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=128, n_positions=LENGTH, n_embd=32, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0,
               attn_pdrop=0, bos_token_id=0, eos_token_id=0)
)  # fmt: skip
trainer = Trainer(
    model=model,
    args=arguments,
    train_dataset=examples(text[: 8192 * LENGTH]),
    eval_dataset=examples(text[-512 * LENGTH :]),
)
trainer.add_callback(ScaleexpCallback(trainer, storage="hf-runs"))  # a study says itself where
trainer.train(resume_from_checkpoint=get_last_checkpoint(arguments.output_dir))
