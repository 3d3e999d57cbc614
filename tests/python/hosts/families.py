"""Tiny random models with what the ten families of conftest lack: biases by place, towers, wrappers."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
import transformers
from conftest import HEADS, IDS, LONG, SMALL, make_hf

VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "image_size": 16}
VISION |= {"num_attention_heads": 2, "patch_size": 8}
SLIDING = ["sliding_attention", "full_attention"] * 2


def widened(hf: Any) -> Any:
    """Larger weights: differences must show."""
    for parameter in hf.parameters():
        parameter.data.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return hf.eval()


def build(name: str) -> tuple[Any, list[torch.nn.Module]]:
    """(model, down projections of its language model)."""
    torch.manual_seed(0)
    kind, _, wrapper = name.partition("+")
    if kind in MAKERS:
        hf, down = MAKERS[kind]()
        hf = widened(hf)
    else:
        hf, down = copy.deepcopy(make_hf(kind)), "mlp.down_proj"
        down = {"gpt_neox": "mlp.dense_4h_to_h", "gpt2": "mlp.c_proj"}.get(kind, down)
    downs = [m for n, m in hf.named_modules() if n.endswith(down) and "vision" not in n]
    if wrapper == "peft":
        import peft

        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft reads a name that transformers gives up
            hf = peft.get_peft_model(hf, config).eval()
    return hf, downs


def mpt() -> tuple[Any, str]:
    config = transformers.MptConfig(
        d_model=32, n_heads=4, n_layers=4, expansion_ratio=2, max_seq_len=256, vocab_size=320, **IDS
    )
    return transformers.MptForCausalLM(config), "ffn.down_proj"


def bloom() -> tuple[Any, str]:
    config = transformers.BloomConfig(hidden_size=32, n_layer=4, n_head=4, vocab_size=320, **IDS)
    return transformers.BloomForCausalLM(config), "mlp.dense_4h_to_h"


def opt() -> tuple[Any, str]:
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.OPTConfig(**sizes, word_embed_proj_dim=32, vocab_size=320, **LONG, **IDS)
    return transformers.OPTForCausalLM(config), "fc2"


def falcon(**settings: Any) -> tuple[Any, str]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.FalconConfig(**sizes, vocab_size=320, **IDS, **settings)
    return transformers.FalconForCausalLM(config), "mlp.dense_4h_to_h"


def doge() -> tuple[Any, str]:
    """Its attention mask depends on values."""
    config = transformers.DogeConfig(**SMALL, **HEADS, **IDS, **LONG, is_moe=False)
    config.sliding_window = None
    return transformers.DogeForCausalLM(config), "mlp.down_proj"


def openai_gpt() -> tuple[Any, str]:
    """Its blocks return lists."""
    config = transformers.OpenAIGPTConfig(
        n_embd=32, n_layer=4, n_head=4, n_positions=64, vocab_size=320, afn="gelu"
    )
    return transformers.OpenAIGPTLMHeadModel(config), "mlp.c_proj"


def gpt_neo() -> tuple[Any, str]:
    """Its window is not in the masks but in the modules."""
    config = transformers.GPTNeoConfig(
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        vocab_size=320,
        window_size=6,
        **LONG,
        **IDS,
        attention_types=[[["global", "local"], 2]],
    )
    return transformers.GPTNeoForCausalLM(config), "mlp.c_proj"


def llava() -> tuple[Any, str]:
    text = transformers.MistralConfig(**SMALL, **HEADS, **IDS, **LONG, sliding_window=6)
    vision = transformers.CLIPVisionConfig(**VISION)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=319)
    return transformers.LlavaForConditionalGeneration(config), "mlp.down_proj"


def gemma3_vision() -> tuple[Any, str]:
    text = transformers.Gemma3TextConfig(
        **SMALL, **HEADS, **IDS, **LONG, head_dim=8, sliding_window=6, query_pre_attn_scalar=8
    )
    text.layer_types = SLIDING
    vision = transformers.SiglipVisionConfig(**VISION)
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=319
    )
    config.boi_token_index = config.eoi_token_index = 318
    return transformers.Gemma3ForConditionalGeneration(config), "mlp.down_proj"


MAKERS = {
    "mpt": mpt,
    "bloom": bloom,
    "doge": doge,
    "opt": opt,
    "openai-gpt": openai_gpt,
    "gpt_neo": gpt_neo,
    "llava": llava,
    "gemma3_vision": gemma3_vision,
    "falcon": lambda: falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon-alibi": lambda: falcon(alibi=True, multi_query=False),
    "falcon-one-key": lambda: falcon(multi_query=True),
}
