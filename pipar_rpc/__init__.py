"""PiPar: pipeline parallelism for collaborative machine learning, on torch.distributed.rpc."""

import os

__version__ = "0.1.0"

PARENT = os.getppid()  # asked before torch is imported, which takes seconds: it may die meanwhile

# torch reads this when it is imported. Its C++ side prints a dozen warnings for each process that is lost;
# what matters of them is said in one line by whoever was waiting.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
