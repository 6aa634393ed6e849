"""Without a GPU, Triton's kernels are run by its interpreter: decided before anything imports them."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
