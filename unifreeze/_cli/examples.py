"""Examples of each command, which its --help shows, and the error for what is missing."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

EXAMPLES: dict[str, tuple[str, ...]] = {
    "show": (
        "unifreeze show package.module:make",
        'unifreeze show "./nets.py:make(depth=4)" --batch "float32[2,3,64,64]" --all',
        "unifreeze show ./nets.py:make --structure --plan plan.yaml",
    ),
    "explain": (
        "unifreeze explain plan.yaml package.module:make",
        'unifreeze explain plan.yaml ./nets.py:make --why "layer4.*"',
        "unifreeze explain phases.yaml ./nets.py:make --phase top",
        "unifreeze explain phases.yaml ./nets.py:make --html report.html",
    ),
    "capture": (
        "unifreeze capture ./nets.py:frozen_by_my_loop -o plan.yaml",
        'unifreeze capture ./nets.py:frozen_by_my_loop --batch "float32[2,3,64,64]" --native',
    ),
    "suggest": (
        "unifreeze suggest ./nets.py:make --examples 2000 --similarity different -o plan.yaml",
        "unifreeze suggest ./nets.py:make --measure --batch examples.npz --labels y",
    ),
    "translate": (
        "unifreeze translate plan.yaml --from ./nets.py:in_torch --to ./nets.py:in_paddle",
    ),
    "expand": ("unifreeze expand phases.yaml ./nets.py:make -o phases_written_out.yaml",),
    "parity": (
        "unifreeze parity plan.yaml ./nets.py:in_torch ./nets.py:in_paddle --batch "
        '"float32[2,3,64,64]"',
        'unifreeze parity plan.yaml ./a.py:net ./b.py:net --batch "ids=int64[2,16]<1:1000>" '
        "--other-python other/bin/python",
    ),
    "record": (
        'unifreeze record plan.yaml ./nets.py:in_torch --batch "float32[2,3,64,64]" -o torch.json',
        "unifreeze record plan.yaml ./nets.py:in_torch --batch x.npz --device gpu -o torch.json",
    ),
    "compare": ("unifreeze compare torch.json paddle.json",),
    "pair": (
        'unifreeze pair ./nets.py:in_torch ./nets.py:in_paddle --batch "float32[2,3,64,64]" '
        "-o pairing.json",
        "unifreeze pair torch_sketch.json paddle_sketch.json -o pairing.json",
    ),
    "sketch": (
        'unifreeze sketch ./nets.py:in_torch --batch "float32[2,3,64,64]" -o one.json',
        'unifreeze sketch ./nets.py:in_paddle --batch "float32[2,3,64,64]" --like one.json '
        "-o other.json",
    ),
    "port": ("unifreeze port model.safetensors model.pdparams -p pairing.json",),
    "step": (
        "unifreeze step plan.yaml ./nets.py:in_torch ./nets.py:in_paddle --batch "
        '"float32[8,3,64,64]"',
        'unifreeze step plan.yaml ./nets.py:in_torch --batch "float32[8,3,64,64]" '
        "-p pairing.json --sketch one.json -o side.json",
    ),
    "align": (
        'unifreeze align ./nets.py:in_torch ./nets.py:in_paddle --batch "float32[8,3,64,64]" '
        "-o report.md --json report.json",
        "unifreeze align report.json --language zh -o report-zh.md",
        'unifreeze align ./nets.py:in_torch -p pairing.json --batch "float32[8,3,64,64]" '
        "-o one.json",
        'unifreeze align ./nets.py:in_paddle -p pairing.json --batch "float32[8,3,64,64]" '
        "--like one.json -o two.json",
        "unifreeze align one.json two.json -p pairing.json -o report.md",
    ),
    "cache": (
        "unifreeze cache fill plan.yaml ./nets.py:make ./data.py:batches -o rows",
        "unifreeze cache info rows",
        "unifreeze cache check rows --json -",
    ),
    "schema": ("unifreeze schema --json plan.schema.json", "unifreeze schema --install plan.yaml"),
    "backends": ("unifreeze backends",),
}
"""Commands by name, quoted as a shell wants them."""


class CommandWithExample(TyperCommand):
    """A command whose error for a missing argument or option shows an example."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; raises as typer does."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # typer does not export the class of the error
            facts = vars(error)
            if type(error).__name__ == "MissingParameter" and not facts["message"]:
                facts["message"] = f"For example: {EXAMPLES[self.name or ''][0]}"
            raise
