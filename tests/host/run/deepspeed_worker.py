"""A training run under DeepSpeed on CPUs: without `numactl`, and without compiling DeepSpeed's own communication."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
from deepspeed.accelerator import get_accelerator

from llava_ego2exo.train import main

type(get_accelerator()).device_count = lambda _self: int(os.environ["LOCAL_WORLD_SIZE"])
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

if __name__ == "__main__":
    main()
