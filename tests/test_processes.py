"""Training by two processes, which is that of one: the loop by itself, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_adapt import pair_list, train_command
from test_contrastive import QUICK, fit, load_encoder, trained_weights

from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.training.pairs import write_pairs
from llamaindex_code_retrieval.training.processes import Processes

CONFIG = QUICK.replace(batch_size=32, forward_tokens=64)

_WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_processes
test_processes.work(*map(Path, sys.argv[2:]))
"""


def work(base: Path, pairs: Path, out: Path) -> None:
    """Train without and with GradCache, then by the command: what each of the two processes does."""
    torch.set_num_threads(1)
    processes = Processes.join(cpu=True)
    assert processes.count == 2
    for name, grad_cache in (("plain", False), ("cache", True)):
        run = fit(load_encoder(base), CONFIG.replace(grad_cache=grad_cache))
        if processes.is_main:
            save_file(trained_weights(run), out / f"{name}.safetensors")
    assert main(train_command(pairs, out / "command", base, "--device", "cpu", "--json")) == 0


class Output(NamedTuple):
    folder: Path
    pairs: Path
    stdout: str


@pytest.fixture(scope="module")
def output(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    folder = tmp_path_factory.mktemp("processes")
    pairs, script = folder / "pairs.jsonl", folder / "worker.py"
    write_pairs(pairs, pair_list())
    script.write_text(_WORKER)
    # what `accelerate launch` starts for several processes on GPUs; on a CPU it starts one without a cluster's files
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    arguments = [str(script), str(Path(__file__).parent), str(bert_folder), str(pairs), str(folder)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return Output(folder, pairs, done.stdout)


@pytest.mark.parametrize("name", ["plain", "cache"])
def test_two_processes_train_as_one(name: str, output: Output, bert_folder: Path) -> None:
    one = trained_weights(fit(load_encoder(bert_folder), CONFIG))
    two = load_file(output.folder / f"{name}.safetensors")
    assert one.keys() == two.keys()
    for parameter, weights in one.items():
        torch.testing.assert_close(two[parameter], weights, atol=1e-4, rtol=0)


def test_the_command_of_two_processes(output: Output, bert_folder: Path, tmp_path: Path) -> None:
    record = json.loads(output.stdout)  # printed once
    assert main(train_command(output.pairs, tmp_path / "one", bert_folder)) == 0
    one, two = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "one", output.folder / "command")
    )
    assert record["trained_parameters"] == sum(tensor.numel() for tensor in two.values())
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, atol=1e-4, rtol=0)
