"""Python runs this at the start of every process that has this folder on PYTHONPATH."""

import tiny_vllm

tiny_vllm.install()
