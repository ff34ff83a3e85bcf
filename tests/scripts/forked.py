"""A launcher in the place of torchrun that imports torch once: python forked.py WORKERS SCRIPT ARGUMENTS..."""

import os
import runpy
import socket
import sys

import torch

import scaleexp.tracking  # noqa: F401  # once for all

workers, script = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(workers)}
children = []
for rank in range(workers):
    if (pid := os.fork()) == 0:
        os.environ.update(own, RANK=str(rank), LOCAL_RANK=str(rank))
        sys.argv = sys.argv[2:]
        runpy.run_path(script, run_name="__main__")
        sys.stdout.flush()
        os._exit(0)  # some leave their process group to the end of Python
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
sys.exit(next((code for code in codes if code), 0))
