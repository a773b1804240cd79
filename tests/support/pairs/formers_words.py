"""Words for towers and experts on PaddleFormers' models, against sums over named submodules.

    PYTHON -m tests.support.pairs.formers_words        PYTHON has PaddleFormers

Prints a table and exits 1 if a word selects anything but the parameters whose names match. What no
registry has (paddlefleet and its operators) is replaced by empty modules: no layer here calls it.
`ci/formers.sh` runs this.
"""

from __future__ import annotations

import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

from tests.support.pairs.formers import ON_CPU, SIZES

NOWHERE = ("paddlefleet", "paddlefleet_ops")
ROPE = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
YARN = {"type": "yarn", "factor": 1.0, "original_max_position_embeddings": 40, "mscale": 1.0,
        "beta_fast": 32, "beta_slow": 1, "mscale_all_dim": 1.0}  # fmt: skip
TEXT = SIZES | ON_CPU | {"rope_scaling": ROPE}
EXPERTS = {
    "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "n_routed_experts": 4, "n_shared_experts": 1, "moe_num_experts": 4, "moe_k": 2,
    "first_k_dense_replace": 1, "topk_group": 1, "q_lora_rank": 8, "kv_lora_rank": 8,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "moe_layer_start_index": 1,
    "moe_layer_end_index": 1, "moe_num_shared_experts": 1, "num_nextn_predict_layers": 0,
}  # fmt: skip
VISION = {
    "depth": 2, "embed_dim": 24, "hidden_size": 24, "num_heads": 2, "mlp_ratio": 2,
    "intermediate_size": 48, "out_hidden_size": 32, "patch_size": 4, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "num_position_embeddings": 16, "deepstack_visual_indexes": [1],
}  # fmt: skip
SEEING = {
    "vision": r"model\.visual\.(?!merger|deepstack).*",
    "projector": r"model\.visual\.(merger|deepstack_merger_list)\..*",
    "text": r"(model\.language_model|lm_head)\..*",
}
MIXED = {
    "experts": r".*\.mlp\.experts\..*",
    "router": r".*\.mlp\.(gate|moe_statics)\..*",
    "shared_experts": r".*\.shared_experts\..*",
}


class Case(NamedTuple):
    """A class, settings, and for each word a pattern of the names that it stands for."""

    model: str
    settings: dict[str, Any]
    words: dict[str, str]


CASES = (
    Case("Qwen3MoeForCausalLMDeprecated", TEXT | EXPERTS | {"rope_scaling": None}, MIXED),
    Case("DeepseekV3ForCausalLM", TEXT | EXPERTS | {"rope_scaling": YARN}, MIXED),
    Case("Ernie4_5_MoeForCausalLM", TEXT | EXPERTS | {"rope_scaling": None}, MIXED),
    Case(
        "Ernie4_5_VLMoeForConditionalGeneration",
        {
            **TEXT,
            **EXPERTS,
            "vision_config": VISION,
            "moe_num_experts": [4, 4],
            "moe_intermediate_size": [16, 16],
            "pixel_hidden_size": 24,
        },
        {
            "vision": r"vision_model\..*",
            "projector": r"model\.resampler_model\..*",
            "text": r"(model\.(?!resampler_model)|lm_head\.).*",
            "experts": r".*\.mlp\.experts\..*",
            "router": r".*\.mlp\.(gate|moe_statics)\..*",
            "shared_experts": r".*\.shared_experts\..*",
        },
    ),
    Case(
        "Qwen2_5_VLForConditionalGeneration",
        {"vision_config": VISION, "text_config": TEXT},
        SEEING,
    ),
    Case(
        "Qwen3VLForConditionalGenerationDeprecated",
        {"vision_config": VISION, "text_config": TEXT},
        SEEING,
    ),
    Case(
        "Qwen3VLMoeForConditionalGenerationDeprecated",
        {"vision_config": VISION, "text_config": TEXT | EXPERTS},
        SEEING | {"experts": r".*\.mlp\.experts\..*", "router": r".*\.mlp\.gate\..*"},
    ),
)


class _Empty(ModuleType):
    """A module that stands for one that is nowhere to be had."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return (lambda *_, **__: False) if name.startswith("is_") else type(name, (), {})


class _Finder:
    """Finds empty modules for those that are nowhere to be had."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the specification of an empty module, for these names alone."""
        nowhere = name.partition(".")[0] in NOWHERE or name.endswith(".gpt_provider")
        return ModuleSpec(name, self, is_package=True) if nowhere else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module."""
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it has no code."""


def main() -> int:
    """Print what each word selects, and what is wrong."""
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
    from paddleformers import transformers

    from unifreeze._plan.selectors import evaluate, parse
    from unifreeze_paddle import PaddleBackend

    faults = []
    for model, settings, words in CASES:
        cls = getattr(transformers, model)
        spec = PaddleBackend().describe(cls(cls.config_class(**settings)))
        tree, counts = spec.tree, []
        for word, pattern in words.items():
            meant = {name for name in tree.names if re.fullmatch(pattern, name)}
            mask = evaluate(parse(word), spec)
            got = {tree.names[name] for name in spec.atoms.name[mask].tolist()}
            values = sum(tree.tensors[tree.tensor_of[tree.names.index(name)]].size for name in got)
            counts.append(f"{word} {len(got)} ({values:,})")
            if got != meant:
                faults.append(f"{model}, {word}: {sorted(got ^ meant)[:4]}")
        print(f"{model}: {', '.join(counts)}", flush=True)
    print("\n".join(faults) or "every word equals the sum over the named submodules")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
