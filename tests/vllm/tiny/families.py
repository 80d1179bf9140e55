"""What each family's published checkpoint says in its files, with the layers shrunk.

Names of classes, processors and control tokens are the published ones, so vLLM takes the same
way through its code and counts an image's tokens the same. Ids are not: see README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.vllm.tiny.tokens import VOCABULARY

Json = dict[str, Any]

HIDDEN = 64
"""Width of every text model; the smallest that vLLM's CPU attention takes with two heads."""
LAYERS = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": VOCABULARY,
    "dtype": "float32",
}
QWEN3 = {
    **LAYERS,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_key_value_heads": 1,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": False,
}
DEEPSEEK_V2 = {
    **LAYERS,
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "lm_head": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "use_mla": False,
    "kv_lora_rank": None,
    "q_lora_rank": None,
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 0,
    "v_head_dim": 0,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 64,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "topk_group": 1,
    "topk_method": "greedy",
}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "patch_size": 14,
}
_PARTS = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] in ('image', 'image_url') %}IMAGE"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
)
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n" + _PARTS + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_GLM = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n" + _PARTS + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """The files of a model folder, before ids are known."""

    controls: tuple[str, ...]
    """Control tokens; their ids are their places."""
    end: str
    pad: str
    config: Json
    begin: str | None = None
    template: str | None = None
    processor: str | None = None
    """Class name in tokenizer_config.json."""
    files: dict[str, Json] = field(default_factory=dict)


def text() -> Family:
    """A chat model without eyes, for the annotator."""
    controls = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    config = {**QWEN3, "eos_token_id": 2, "pad_token_id": 0}
    template = _CHATML.replace("IMAGE", "")
    return Family(controls, "<|im_end|>", "<|endoftext|>", config, template=template)


def deepseek_ocr() -> Family:
    """DeepSeek-OCR: no chat template, because vLLM brings one for it."""
    begin, end, pad = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
    marks = ("<|grounding|>", "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<td>", "</td>")
    controls = (begin, end, pad, "<image>", *marks)
    config = {
        "architectures": ["DeepseekOCRForCausalLM"],
        "model_type": "deepseek_vl_v2",
        "candidate_resolutions": [[1024, 1024]],
        "global_view_pos": "head",
        "tile_tag": "2D",
        "language_config": DEEPSEEK_V2,
        "projector_config": {
            "model_type": "mlp_projector",
            "input_dim": 2048,
            "n_embed": HIDDEN,
            "projector_type": "linear",
        },
        "vision_config": {
            "model_type": "vision",
            "image_size": 1024,
            "mlp_ratio": 3.7362,
            "model_name": "deeplip_b_l",
        },
        "bos_token_id": 0,
        "eos_token_id": 1,
        "vocab_size": VOCABULARY,
        "dtype": "float32",
    }
    processor = {
        "processor_class": "DeepseekVLV2Processor",
        "add_special_token": False,
        "candidate_resolutions": [[1024, 1024]],
        "downsample_ratio": 4,
        "ignore_id": -100,
        "image_token": "<image>",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "mask_prompt": False,
        "normalize": True,
        "pad_token": pad,
        "patch_size": 16,
        "sft_format": "deepseek",
    }
    files = {"processor_config.json": processor}
    return Family(controls, end, pad, config, begin=begin, files=files)


def lighton_ocr() -> Family:
    """LightOnOCR-2-1B and its bbox weights: Pixtral's eyes, Qwen3's text."""
    image, gap, last = "<|image_pad|>", "<|vision_pad|>", "<|vision_end|>"
    controls = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", last, gap, image)
    vision = {
        "model_type": "pixtral",
        "hidden_size": 64,
        "head_dim": 32,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_channels": 3,
        "image_size": 1540,
        "patch_size": 14,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
    }
    config = {
        "architectures": ["LightOnOCRForConditionalGeneration"],
        "model_type": "mistral3",
        "image_token_index": controls.index(image),
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "eos_token_id": 2,
        "text_config": {**QWEN3, "sliding_window": None},
        "vision_config": vision,
    }
    files = {
        "preprocessor_config.json": {
            **CLIP,
            "image_processor_type": "PixtralImageProcessor",
            "processor_class": "PixtralProcessor",
            "size": {"longest_edge": 1540},
        },
        "processor_config.json": {
            "processor_class": "PixtralProcessor",
            "patch_size": 14,
            "spatial_merge_size": 2,
            "image_token": image,
            "image_break_token": gap,
            "image_end_token": last,
        },
    }
    template = _CHATML.replace("IMAGE", image)
    return Family(
        controls, "<|im_end|>", "<|endoftext|>", config, None, template, "PixtralProcessor", files
    )


def glm_ocr() -> Family:
    """GLM-OCR, without its draft model."""
    media = ("<|begin_of_image|>", "<|image|>", "<|end_of_image|>")
    video = ("<|begin_of_video|>", "<|video|>", "<|end_of_video|>")
    controls = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")
    controls += media + video
    stop = [controls.index("<|endoftext|>"), controls.index("<|user|>")]
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    language = {
        **LAYERS,
        "model_type": "glm_ocr_text",
        "num_key_value_heads": 1,
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 16384,
        "pad_token_id": 0,
        "eos_token_id": stop,
        "rope_parameters": {**rope, "mrope_section": [4, 6, 6]},
    }
    vision = {
        "model_type": "glm_ocr_vision",
        "depth": 2,
        "hidden_size": 64,
        "hidden_act": "silu",
        "attention_bias": True,
        "num_heads": 2,
        "in_channels": 3,
        "image_size": 336,
        "patch_size": 14,
        "rms_norm_eps": 1e-5,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": HIDDEN,
        "intermediate_size": 128,
    }
    ids = ("image_start_token_id", "image_token_id", "image_end_token_id")
    ids += ("video_start_token_id", "video_token_id", "video_end_token_id")
    config = {
        "architectures": ["GlmOcrForConditionalGeneration"],
        "model_type": "glm_ocr",
        **{name: controls.index(token) for name, token in zip(ids, media + video, strict=True)},
        "tie_word_embeddings": False,
        "dtype": "float32",
        "eos_token_id": stop,
        "text_config": language,
        "vision_config": vision,
    }
    template = _GLM.replace("IMAGE", "".join(media))
    return Family(
        controls,
        "<|endoftext|>",
        "<|endoftext|>",
        config,
        None,
        template,
        "Glm46VProcessor",
        _glm_files(),
    )


def _glm_files() -> dict[str, Json]:
    """Return GLM's two processor files: pages, and films, which vLLM asks for too."""
    common = {
        **CLIP,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "processor_class": "Glm46VProcessor",
    }
    least = 12544
    return {
        "preprocessor_config.json": {
            **common,
            "image_processor_type": "Glm46VImageProcessor",
            "size": {"shortest_edge": least, "longest_edge": 9633792},
        },
        "video_preprocessor_config.json": {
            **common,
            "video_processor_type": "Glm46VVideoProcessor",
            "size": {"shortest_edge": least, "longest_edge": 47040000},
            "fps": 2,
        },
    }
