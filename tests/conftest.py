"""Tiny but real models: random weights, written to disk by the reference classes."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.reranker import CodeReranker
from llamaindex_code_retrieval.training.averaging import average_adapters

CORPUS = [
    "def read(path):\n    with open(path) as file:\n        return file.read()",
    "int add(int a, int b) { return a + b; }",
    "how to read a file line by line and return the sum of all numbers",
    "class Stack<T> { void push(T item) { items.add(item); } }",
]
CODES = [*CORPUS, "", "x", "func main() {\n\tfmt.Println(42)\n}", "while True: pass\n" * 40]
VOCABULARY = 400
Weights = dict[str, torch.Tensor]

collect_ignore = ["languages"]  # samples in many languages, Python among them


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Restore Python's handler of SIGINT, which a shell makes background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tests out of the user's cache."""
    os.environ["CODE_RETRIEVAL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _compute_on_a_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a CPU the default device on every machine: expected values are those of a CPU."""
    if request.path.name != "test_gpu.py":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE with the special tokens of RoBERTa, CodeT5 and UniXcoder, as vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("bpe")
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<encoder-only>"]
    tokenizer.train_from_iterator(CORPUS * 4, vocab_size=VOCABULARY, min_frequency=1, special_tokens=special)
    tokenizer.save_model(str(folder))
    return folder


def _save(model: PreTrainedModel, folder: Path, bpe_folder: Path | None = None) -> Path:
    model.eval().save_pretrained(folder)
    if bpe_folder is not None:
        RobertaTokenizerFast(
            str(bpe_folder / "vocab.json"),
            str(bpe_folder / "merges.txt"),
            additional_special_tokens=["<encoder-only>"],
        ).save_pretrained(folder)
        for name in ("vocab.json", "merges.txt"):  # older checkpoints ship these instead of tokenizer.json
            (folder / name).write_bytes((bpe_folder / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def embedded_model() -> tuple[CodeEmbedding, ...]:
    """The default model, bare and adapted; while these live, an equal ``CodeEmbedding`` shares their weights."""
    return CodeEmbedding(), CodeEmbedding(adapter="none")


@pytest.fixture(scope="session")
def other_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the default model beside its default one, which it is a reduction of."""
    folder = tmp_path_factory.mktemp("adapters") / "other"
    average_adapters(["embedded-general"], folder, rank=4)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    words = sorted({word for text in CORPUS for word in text.lower().replace("(", " ").split() if word.isalpha()})
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(dict.fromkeys(vocabulary)),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    return _save(BertModel(config), folder)


def _roberta_config(**changes: object) -> RobertaConfig:
    return RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        type_vocab_size=1,
        **changes,
    )


@pytest.fixture
def embedding(bert_folder: Path) -> CodeEmbedding:
    return CodeEmbedding(str(bert_folder), precision="fp32")


@pytest.fixture(scope="session")
def roberta_folder(tmp_path_factory: pytest.TempPathFactory, bpe_folder: Path) -> Path:
    torch.manual_seed(2)
    return _save(RobertaModel(_roberta_config()), tmp_path_factory.mktemp("codebert"), bpe_folder)


@pytest.fixture(scope="session")
def unixcoder_folder(tmp_path_factory: pytest.TempPathFactory, bpe_folder: Path) -> Path:
    torch.manual_seed(3)
    model = RobertaModel(_roberta_config(is_decoder=True))  # as the published checkpoint says
    return _save(model, tmp_path_factory.mktemp("unixcoder"), bpe_folder)


def unit_rows(rows: list[torch.Tensor]) -> NDArray[np.float32]:
    """Return vectors of length 1 as one array."""
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1).detach().numpy()


def t5_config(feed_forward: str = "relu") -> T5Config:
    return T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj=feed_forward,
        relative_attention_num_buckets=32,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory, bpe_folder: Path) -> Path:
    """A whole encoder-decoder, as CodeT5 is published."""
    torch.manual_seed(4)
    return _save(T5ForConditionalGeneration(t5_config()), tmp_path_factory.mktemp("codet5"), bpe_folder)


@pytest.fixture(scope="session")
def gated_t5_folder(tmp_path_factory: pytest.TempPathFactory, bpe_folder: Path) -> Path:
    """An encoder with T5 1.1's feed-forward network."""
    torch.manual_seed(7)
    return _save(T5EncoderModel(t5_config("gated-gelu")), tmp_path_factory.mktemp("t5-gated"), bpe_folder)


@pytest.fixture(scope="session")
def mpnet_folder(tmp_path_factory: pytest.TempPathFactory, bpe_folder: Path) -> Path:
    """More positions than distances that have a bias of their own."""
    torch.manual_seed(8)
    config = MPNetConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=210,
        pad_token_id=1,
    )
    return _save(MPNetModel(config), tmp_path_factory.mktemp("mpnet"), bpe_folder)


@pytest.fixture(scope="session")
def distilbert_folder(tmp_path_factory: pytest.TempPathFactory, bpe_folder: Path) -> Path:
    torch.manual_seed(9)
    config = DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=51, pad_token_id=1
    )
    return _save(DistilBertModel(config), tmp_path_factory.mktemp("distilbert"), bpe_folder)


@pytest.fixture(scope="session")
def codet5p_folder(tmp_path_factory: pytest.TempPathFactory, bpe_folder: Path) -> Path:
    """The layout of Salesforce/codet5p-110m-embedding: keys shared.*, encoder.*, proj.*, a model_type of its own."""
    torch.manual_seed(5)
    folder = _save(T5EncoderModel(t5_config()), tmp_path_factory.mktemp("codet5p"), bpe_folder)
    (folder / "model.safetensors").unlink()
    encoder = T5EncoderModel(t5_config())
    weights = {key: value.contiguous().clone() for key, value in encoder.state_dict().items()}
    weights["proj.weight"], weights["proj.bias"] = torch.randn(8, 32), torch.randn(8)
    save_file(weights, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "codet5p_embedding",
        "embed_dim": 8,
        "architectures": ["CodeT5pEmbeddingModel"],
        "auto_map": {"AutoModel": "modeling_codet5p_embedding.CodeT5pEmbeddingModel"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def codesage_folder(tmp_path_factory: pytest.TempPathFactory, bpe_folder: Path) -> Path:
    """CodeSage's layout: GPT-2's layers under the prefix ``transformer.``, settings by other names."""
    torch.manual_seed(6)
    folder = tmp_path_factory.mktemp("codesage")
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_inner=48,
        bos_token_id=0,
        eos_token_id=2,
    )
    weights = {f"transformer.{key}": value.contiguous() for key, value in GPT2Model(config).state_dict().items()}
    save_file(
        {key: value for key, value in weights.items() if not key.endswith(".attn.bias")}, folder / "model.safetensors"
    )
    settings = {
        "model_type": "codesage",
        "architectures": ["CodeSage"],
        "auto_map": {"AutoModel": "modeling_codesage.CodeSageModel"},
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "mask_token_id": 4,  # its tokenizer does not name it
    }
    (folder / "config.json").write_text(json.dumps(settings))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((bpe_folder / name).read_bytes())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "CodeSageTokenizer", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
        )
    )
    return folder


class Shell:
    """Runs a command in this process and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> Any:
        """Return what was printed to stdout, as a value with ``--json``; assert the exit code."""
        self._capsys.readouterr()
        try:
            got: object = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # arguments that do not parse
            got = exit_.code
        printed = self._capsys.readouterr()
        assert got == code, printed.err
        self.out, self.err = printed.out, printed.err
        return json.loads(printed.out) if "--json" in arguments and code != 2 else printed.out

    def fails(self, *arguments: object, says: str) -> None:
        """Assert that the command ends with exit code 2 and a message, and prints no result."""
        self(*arguments, code=2)
        assert says in self.err
        assert "Traceback" not in self.err
        assert self.out == ""


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    """The command line, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(capsys)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with twenty-four documented functions."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for verb in "read write open close sort count".split():
        functions = [
            f'def {verb}_{noun}({noun}):\n    """{verb.title()} all of the {noun}."""\n'
            f'    return {verb}_{noun}({noun}, "{verb.title()} all of")\n\n\n'
            for noun in "line word tree node".split()
        ]
        (folder / f"{verb}.py").write_text("".join(functions))
    return folder


@pytest.fixture
def write_suite(shop: Path, bert_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write suite.toml: a dense system and one of words on the functions of ``shop``, and more tables."""

    def write(more: str = "") -> Path:
        path = tmp_path / "suite.toml"
        path.write_text(
            'depth = 24\n[[task]]\nname = "own"\nrepository = ["shop"]\n'
            f'[[system]]\nname = "dense"\nmodel = "{bert_folder}"\nmode = "dense"\n'
            f'[[system]]\nname = "words"\nmodel = "{bert_folder}"\nmode = "bm25"\n{more}\n'
        )
        return path

    return write


def worsen(suite: Path, to: Path) -> None:
    """Give the system of words the vectors of a random model that reads eight tokens."""
    to.write_text(suite.read_text().replace('mode = "bm25"', 'mode = "dense"\nmax_code_tokens = 8'))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository of three source files, one of them in Java, and one ignored."""
    root = tmp_path / "shop"
    (root / "src").mkdir(parents=True)
    (root / "src" / "cart.py").write_text(
        'class Cart:\n    """Holds what a customer will buy."""\n\n    def __init__(self):\n        self.items = []\n\n'
        "    def add(self, item, price):\n        self.items.append((item, price))\n\n"
        "    def total(self):\n        return sum(price for _, price in self.items)\n"
    )
    (root / "src" / "mail.py").write_text(
        "import smtplib\n\n\ndef send_receipt(address, text):\n    with smtplib.SMTP('localhost') as server:\n"
        "        server.sendmail('shop', address, text)\n"
    )
    (root / "Tax.java").write_text(
        "class Tax {\n  /** Adds value added tax to a price. */\n  double withTax(double price) {\n"
        "    return price * 1.19;\n  }\n}\n"
    )
    (root / "ignored.py").write_text("def secret():\n    return 1\n")
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    (root / ".git" / "info" / "exclude").write_text("ignored.py\n")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "first"], check=True)
    return root


@pytest.fixture
def indexed(shell: Shell, repository: Path, bert_folder: Path, tmp_path: Path) -> Path:
    """An index of ``repository`` by a tiny model."""
    shell("index", repository, "--out", tmp_path / "idx", "--model", bert_folder)
    return tmp_path / "idx"


FILE_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}  # audit events


def fork(work: Callable[[], object]) -> int:
    """Start ``work`` in a copy of this process, which ends with it, and return the process id."""
    process = os.fork()
    if process == 0:
        try:
            if "faiss" in sys.modules:
                sys.modules["faiss"].omp_set_num_threads(1)  # OpenMP's threads do not survive a fork
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return process


def is_killed_at_step(step: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in another process, killed before its ``step``-th file operation; return False if it had fewer."""

    def work_until_killed() -> None:
        operations = itertools.count(1)

        def kill(event: str, arguments: tuple[object, ...]) -> None:
            if event in FILE_OPERATIONS and next(operations) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        work()

    status = os.waitstatus_to_exitcode(os.waitpid(fork(work_until_killed), 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def save_adapter(kind: str, base: Path, folder: Path, *, seed: int = 0) -> Path:
    """Write an adapter of a kind for a BERT; see :func:`write_adapter`."""
    config: PeftConfig
    task = TaskType.FEATURE_EXTRACTION
    if kind == "lora":
        config = LoraConfig(task_type=task, r=2, target_modules=["query", "value", "dense"])
    elif kind == "adalora":
        config = AdaLoraConfig(task_type=task, init_r=4, target_r=2, total_step=10, target_modules=["query", "value"])
    elif kind == "ia3":
        config = IA3Config(task_type=task, target_modules=["key", "value", "dense"], feedforward_modules=["dense"])
    else:
        config = PromptTuningConfig(task_type=task, num_virtual_tokens=4)
    return write_adapter(AutoModel.from_pretrained(base), config, folder, seed=seed)


def write_adapter(backbone: torch.nn.Module, config: PeftConfig, folder: Path, *, seed: int = 0) -> Path:
    """Write an adapter for a backbone as PEFT does, with random weights large enough to change a vector."""
    model = get_peft_model(backbone, config)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name or "prompt" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
        elif "ia3_" in name:
            torch.nn.init.uniform_(weight, 0.2, 1.8, generator=generator)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_folders(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> dict[str, Path]:
    """An adapter of each kind for the tiny BERT."""
    return {
        kind: save_adapter(kind, bert_folder, tmp_path_factory.mktemp(kind), seed=seed)
        for seed, kind in enumerate(["lora", "adalora", "ia3", "prompt"])
    }


def assert_threads_score_at_once(reranker: CodeReranker) -> None:
    """Check that four threads are inside the model at one moment, and that each gets what it would get alone."""
    pairs = [("read the file", "def read(path)"), ("sum", ""), ("write " * 40, "class list"), ("x", "add a b " * 40)]
    expected = [reranker.log_odds(query, [code]) for query, code in pairs]
    barrier = threading.Barrier(len(pairs), timeout=60)  # opens when all are there, and breaks if they cannot be
    scorer: Any = reranker._scorer
    model = scorer.head if isinstance(scorer, CrossEncoder) else scorer._model

    def wait(_module: Any, _inputs: Any) -> None:
        barrier.wait()

    hook = model.register_forward_pre_hook(wait)
    try:
        with ThreadPoolExecutor(len(pairs)) as pool:
            assert list(pool.map(lambda pair: reranker.log_odds(pair[0], [pair[1]]), pairs)) == expected
    finally:
        hook.remove()


@contextmanager
def until_the_event_loop_runs(model: torch.nn.Module) -> Iterator[Callable[[Awaitable[Any]], Coroutine[Any, Any, Any]]]:
    """Make each forward call of ``model`` wait until the event loop runs beside it; a call that blocks the loop fails.

    Yields a function that awaits a call under these conditions.
    """
    started, loop_runs = threading.Event(), threading.Event()

    def stop(_module: Any, _inputs: Any) -> None:
        started.set()
        assert loop_runs.wait(timeout=60), "the event loop is blocked"

    async def wait(call: Awaitable[Any]) -> Any:
        started.clear()
        loop_runs.clear()
        task = asyncio.ensure_future(call)
        while not started.is_set() and not task.done():
            await asyncio.sleep(0.001)
        loop_runs.set()
        return await task

    hook = model.register_forward_pre_hook(stop)
    try:
        yield wait
    finally:
        hook.remove()
