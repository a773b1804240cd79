"""What every example plan decides for its models: canonical names, one golden file per plan.

    python -m tests.support.golden_plans            print them
    python -m tests.support.golden_plans --write    write them to tests/golden/plans/

The file is the same for both frameworks. It lists what a plan leaves trainable, or, where the two
ports differ in what it does not touch, what it freezes; of a plan with phases, when each begins,
and how much of which part of the network it trains.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import unifreeze as uf  # noqa: E402
from tests.support import tower_nets  # noqa: E402
from tests.support.zoo import FRAMEWORKS, runnable, structure  # noqa: E402
from unifreeze._protocol import backend_for  # noqa: E402
from unifreeze._resolution import resolve_phases  # noqa: E402

EXAMPLES = ROOT / "examples"
GOLDEN = ROOT / "tests" / "golden" / "plans"

STUDENT = {"student": "bert", "teacher": "ernie"}
SEES, MERGES = "a network that sees", "a network that merges patches"
HEARS = "a network that hears"
PLANS: dict[str, tuple[Any, ...]] = {
    "resnet/head_and_last_stage.yaml": ("resnet50",),
    "resnet/native_names.yaml": ("resnet50",),
    "resnet/biases.yaml": ("resnet50",),
    "ernie/top_two_blocks.yaml": ("ernie at full size",),
    "ernie/first_ten_blocks.yaml": ("ernie at full size",),
    "ernie/embeddings.yaml": ("ernie",),
    "ernie/head.yaml": ("ernie",),
    "recipes/head.yaml": ("resnet50", "vgg16", "bert", "t5 with a head of its own"),
    "recipes/last_two_blocks.yaml": ("resnet50", "ernie", "gpt2 for classification"),
    "recipes/first_70_percent.yaml": ("resnet50", "ernie", "ernie at full size"),
    "recipes/all_but_embeddings.yaml": ("ernie", "bart"),
    "recipes/biases.yaml": ("resnet50", "bert"),
    "recipes/norms.yaml": ("resnet50", "ernie", "t5"),
    "recipes/adapters.yaml": ("bert with lora",),
    "recipes/vision_tower.yaml": ("clip",),
    "recipes/projector_only.yaml": (SEES, MERGES, HEARS),
    "recipes/vision_frozen.yaml": (SEES,),
    "recipes/language_lora.yaml": (f"{SEES}, with lora",),
    "recipes/language_lora_and_projector.yaml": (f"{SEES}, with lora",),
    "recipes/last_vision_blocks_and_projector.yaml": (SEES, MERGES),
    "recipes/upper_language_and_projector.yaml": (SEES,),
    "recipes/language_frozen.yaml": (SEES, HEARS),
    "recipes/audio_frozen.yaml": (HEARS,),
    "recipes/projector_then_language.yaml": (SEES,),
    "recipes/rates_by_tower.yaml": (SEES,),
    "recipes/towers_locked.yaml": ("a network that matches",),
    "recipes/action_only.yaml": ("a network that acts",),
    "recipes/router_frozen.yaml": ("a mixture of experts",),
    "recipes/experts_only.yaml": ("a mixture of experts",),
    "recipes/new_words.yaml": ("bert", "bart"),
    "recipes/teacher.yaml": (STUDENT,),
    "recipes/student_and_teacher.yaml": (STUDENT,),
    "recipes/classifier.yaml": ("resnet50", "vgg16", "bert"),
    "recipes/embeddings.yaml": ("ernie",),
    "recipes/first_ten_parameters.yaml": ("resnet50", "bert"),
    "recipes/first_eight_layers.yaml": ("bert at full size",),
    "recipes/first_and_last_children.yaml": ("resnet50",),
    "recipes/named_layers.yaml": ("bert",),
    "recipes/last_stage.yaml": ("resnet50",),
    "recipes/last_block_of_vgg.yaml": ("vgg16",),
    "recipes/rates_by_stage.yaml": ("resnet50",),
    "recipes/rates_by_depth.yaml": ("bert",),
    "recipes/norm_statistics_held.yaml": ("resnet50",),
    "recipes/norm_statistics_moving.yaml": ("resnet50",),
    "recipes/lora_with_frozen_norms.yaml": ("bert with lora",),
    "recipes/gradual_unfreezing.yaml": ("roberta",),
    "recipes/cats_and_dogs.yaml": ("resnet50",),
    "recipes/head_then_top.yaml": ("resnet50", "ernie"),
    "recipes/adaptive_share.yaml": ("resnet50", "ernie"),
    "recipes/by_gradient.yaml": ("resnet50",),
    "recipes/lisa.yaml": ("ernie",),
    "recipes/stop_on_rise.yaml": ("resnet50",),
}
"""Every plan under examples/, and the networks it is for: one of the zoo, or several by name."""

BY_WHAT_IS_FROZEN = {"recipes/vision_tower.yaml"}
"""Plans after which the two ports hold other tensors outside of what the plan is about."""


def build(network: Any, framework: str) -> Any:
    """Build one network of the zoo, or several."""
    if isinstance(network, Mapping):
        return {name: runnable(one, framework) for name, one in network.items()}
    if network in tower_nets.NETWORKS:
        return tower_nets.NETWORKS[network][0](framework)
    if network.endswith(" at full size"):
        return structure(network.removesuffix(" at full size"), framework)
    return runnable(network, framework)


def title(network: Any) -> str:
    """Name a network, or several, in a golden file."""
    if isinstance(network, Mapping):
        return ", ".join(f"{name} {one}" for name, one in network.items())
    return str(network)


def section(plan: str, network: Any, model: Any) -> str:
    """Show what a plan decides for one network."""
    if load(plan).phases:
        return "\n".join([f"# {title(network)}: phases", *phases(load(plan), model)])
    resolution = uf.resolve(load(plan), model)
    frozen = plan in BY_WHAT_IS_FROZEN
    names = resolution.frozen_names if frozen else resolution.trainable_names
    count = f"{len(names)} parameters {'frozen' if frozen else 'trainable'}"
    return "\n".join([f"# {title(network)}: {count}", *names])


def phases(plan: uf.FreezePlan, model: Any) -> Iterator[str]:
    """Show what a plan decides in each phase, as far as no measurement decides."""
    expanded = plan.expand(model)
    resolutions = resolve_phases(expanded, backend_for(model).describe(model))
    for phase, resolution in zip(expanded.phases, resolutions, strict=True):
        zones = dict.fromkeys(name.partition("/")[0] for name in resolution.trainable_names)
        count = f"{len(resolution.trainable_names)} of {len(resolution.trainable)}"
        less = phase.freeze_smallest
        count += f" less {less.share} % of {less.of} by gradient" if less else ""
        what = "training ends" if phase.stop else f"{count}: {' '.join(zones)}"
        yield f"{phase.name}, {phase.entry or 'at once'}: {what}"


def golden(plan: str) -> dict[str, str]:
    """Read a plan's golden file: the section for each network by its title."""
    text = golden_path(plan).read_text(encoding="utf-8").strip()
    return {part.partition(":")[0].removeprefix("# "): part for part in text.split("\n\n")}


def golden_path(plan: str) -> Path:
    """Return where the golden file of a plan is."""
    return (GOLDEN / plan).with_suffix(".txt")


def load(plan: str) -> uf.FreezePlan:
    """Load a plan from under examples/."""
    return uf.FreezePlan.load(EXAMPLES / plan)


def whole(plan: str) -> str:
    """Show what a plan decides for all its networks.

    Raises:
        AssertionError: The frameworks disagree.
    """
    sections = []
    for network in PLANS[plan]:
        shown = {section(plan, network, build(network, framework)) for framework in FRAMEWORKS}
        assert len(shown) == 1, f"{plan}: the frameworks disagree on {title(network)}"
        sections += shown
    return "\n\n".join(sections) + "\n"


def main() -> None:
    """Print the golden files, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write them to tests/golden/plans/")
    write = parser.parse_args().write
    for plan in PLANS:
        if write:
            golden_path(plan).parent.mkdir(parents=True, exist_ok=True)
            golden_path(plan).write_text(whole(plan), encoding="utf-8")
        else:
            print(f"== {plan}\n{whole(plan)}")


if __name__ == "__main__":
    main()
