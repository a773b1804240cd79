"""`sketch`, `pair` and `port`: which tensor is which, and weights carried over by a pairing."""

from __future__ import annotations

import json as json_module
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from unifreeze._cli.find_model import load_model, use_backends
from unifreeze._cli.output import (
    BackendOption,
    BatchOption,
    JsonOption,
    ModelArgument,
    OtherPythonOption,
    OutputsOption,
    SeedOption,
    output_file,
    say,
    say_as_it_is,
    write_json,
)
from unifreeze._cli.parity import read_inputs
from unifreeze._cli.progress_bars import progress_bars
from unifreeze._cli.side_process import SideCommand, run_sides
from unifreeze._files import read_json, read_text
from unifreeze._ports.carrying import port_file
from unifreeze._ports.pairing import (
    ModelSketch,
    Pairing,
    SketchRequest,
    make_sketch,
    pair_by,
    pair_sketches,
    parts_of,
)
from unifreeze._wrong_files import meant
from unifreeze.errors import TargetError, counted

ShippedOption = Annotated[
    bool,
    typer.Option(
        "--shipped-map", help="Use the second library's table of names where nothing else decides."
    ),
]


def sketch(
    model: ModelArgument,
    output: Annotated[Path, output_file("Where to write the sketch.")],
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    like: Annotated[
        Path | None,
        typer.Option(metavar="SKETCH", help="Sketch of the model that this one is to pair with."),
    ] = None,
    hints: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="JSON: paths of LIKE's model to this one's."),
    ] = None,
    shipped: ShippedOption = False,
    seed: SeedOption = 0,
    outputs: OutputsOption = "",
    states: Annotated[
        bool, typer.Option("--states", help="Set values of state that is not a statistic, too.")
    ] = False,
    parts: Annotated[
        Path | None,
        typer.Option(
            metavar="SKETCH", help="Sketch of MODEL in which its fused tensors are apart."
        ),
    ] = None,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Run a model on seeded values and write down what pairing needs to know of it."""
    use_backends(backend)
    if like is None and (hints or shipped):
        raise TargetError("a map says which path is which of another model's: --like its sketch")
    first = ModelSketch.load(like) if like else None
    names = _read_map(hints)
    inputs = read_inputs(batch, seed)
    live, framework = load_model(model, seed=seed)
    side = make_sketch(
        live,
        framework,
        inputs,
        name=model,
        like=first,
        hints=names,
        shipped=shipped,
        outputs=tuple(outputs.split(",")) if outputs else None,
        states=states,
        parts=parts_of(ModelSketch.load(parts)) if parts else (),
        seed=seed,
    )
    side.save(output)
    count = sum(not row.state for row in side.tensors)
    if json:
        about = {"sketch": str(output), "framework": side.framework, "model": side.model}
        write_json({**about, "parameters": count, "states": len(side.tensors) - count}, json)
    if json != "-":
        say_as_it_is(f"{side.framework}: {counted(count, 'parameter')}; written to {output}")


def pair(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model, or the file of its sketch.")
    ],
    other: Annotated[
        str, typer.Argument(metavar="MODEL", help="Another port of it, or the file of its sketch.")
    ],
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    seed: SeedOption = 0,
    output: Annotated[Path | None, output_file("Where to write the pairing.")] = None,
    hints: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="JSON: paths of MODEL to the other's; checked."),
    ] = None,
    shipped: ShippedOption = False,
    other_python: OtherPythonOption = "",
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Find the tensors that correspond in two ports of the same network.

    Each side runs in a process of its own, or is read from a sketch made elsewhere; two sketches
    are paired where neither framework is installed.
    """
    use_backends(backend)
    are_sketches = [name.endswith(".json") for name in (model, other)]
    if all(are_sketches) and (hints or shipped):
        raise TargetError("two sketches are paired as they were made; give the map to sketch")
    if all(are_sketches):
        pairing = pair_sketches(ModelSketch.load(model), ModelSketch.load(other))
    elif any(are_sketches):
        raise TargetError(
            "one side is a sketch and the other a model",
            hint="sketch the other, too: unifreeze sketch MODEL --like FIRST.json -o OTHER.json",
        )
    else:
        read_inputs(batch, seed)
        settings = ["--seed", str(seed), *(f"--batch={value}" for value in batch)]
        settings += [f"--backend={value}" for value in backend]
        settings += ["--shipped-map"] if shipped else []
        python = other_python or sys.executable
        pairing = pair_in_two_processes((model, other), python, settings, _read_map(hints))
    if output:
        pairing.save(output)
    if json:
        write_json(pairing.model_dump(), json)
    if json != "-":
        say(str(pairing))
        if output:
            say_as_it_is(f"written to {output}")


def port(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A weight file, or a folder or index of several."),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET", help="Where to write: .safetensors, .pdparams, .pt or .bin."
        ),
    ],
    pairing: Annotated[
        Path,
        typer.Option(
            "-p", "--pairing", metavar="FILE", help="The pairing that `unifreeze pair -o` wrote."
        ),
    ],
    direction: Annotated[
        str,
        typer.Option(metavar="WAY", help="forward, reverse, or auto: by the names in the source."),
    ] = "auto",
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out what has no partner on the other side.")
    ] = False,
    crop: Annotated[
        bool, typer.Option("--crop", help="Carry over the common rows of unequal tables.")
    ] = False,
    strip_prefix: Annotated[
        str,
        typer.Option(
            metavar="PREFIX",
            help="Take only names that begin with this (module., Student.), without it.",
        ),
    ] = "",
    key: Annotated[
        str, typer.Option(help="Name of the state dict in a checkpoint of several.")
    ] = "",
    json: JsonOption = "",
) -> None:
    """Write one port's weight file as the other port names and stores its tensors."""
    if direction not in ("auto", "forward", "reverse"):
        raise TargetError(f"direction {direction!r} cannot be read", hint="auto, forward, reverse")
    reverse = None if direction == "auto" else direction == "reverse"
    with progress_bars() as show:
        ported = port_file(
            source,
            target,
            Pairing.load(pairing),
            reverse=reverse,
            partial=partial,
            crop=crop,
            strip_prefix=strip_prefix,
            key=key or None,
            progress=lambda _, done, total: show("carrying over", done, total),
        )
    if json:
        write_json(ported._asdict(), json)
    if json != "-":
        say(str(ported))
        say_as_it_is(f"written to {target}")


def _read_map(file: Path | None) -> dict[str, str]:
    """Read a map of native paths.

    Raises:
        TargetError: The file is not a JSON object of names.
    """
    try:
        names = read_json(read_text(file)) if file else {}
    except (OSError, ValueError, RecursionError) as error:
        hint = (meant(file, (".json",)) if file else "") or 'JSON: {"one.path": "other.path"}'
        raise TargetError(f"cannot read the map {file}: {error}", hint=hint) from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise TargetError(
            f"the map {file} is not a JSON object of paths", hint='{"one.path": "other.path"}'
        )
    return names


def pair_in_two_processes(
    models: tuple[str, str], other_python: str, settings: list[str], hints: dict[str, str]
) -> Pairing:
    """Pair two models, each sketched in processes of its own environment."""
    with tempfile.TemporaryDirectory(prefix="unifreeze-") as folder:
        files = [Path(folder) / "one.json", Path(folder) / "other.json"]
        maps = [Path(folder) / "back.json", Path(folder) / "map.json"]
        back = {there: here for here, there in hints.items()}
        maps[0].write_text(json_module.dumps(back), encoding="utf-8")
        maps[1].write_text(json_module.dumps(hints), encoding="utf-8")

        def sketch_side(
            like: ModelSketch | None, request: SketchRequest, *, second: bool
        ) -> ModelSketch:
            model, file = models[second], files[second]
            python = other_python if second else sys.executable
            words = ["sketch", model, "-o", str(file), *settings]
            if like is not None:
                words += ["--like", str(files[not second])]
                words += ["--map", str(maps[second])] if hints else []
            if request.outputs:
                words.append(f"--outputs={','.join(request.outputs)}")
            words += ["--states"] if request.states else []
            words += ["--parts", str(file)] if request.parts else []  # of its last sketch
            run_sides([SideCommand(python, model, tuple(words))])
            return ModelSketch.load(file)

        return pair_by(sketch_side)
