"""Every family of models of four libraries, built small, and held against the framework's own list.

    python -m tests.support.families                        all of them; writes docs/en/families.md
    python -m tests.support.families transformers vision    these libraries; writes nothing

Families are listed by looking into the libraries, none is written down here. A model is built
shallow and without values (on PyTorch's meta device, under Paddle's LazyGuard); what cannot be
built so is tried narrow, with values. What is looked at is its description: parameters, state among
the framework's parameters and copies in no use must be what `parameters()` gives, each tensor once.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import os
import pkgutil
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from examples.torchvision_on_cpu import import_torchvision  # noqa: E402
from unifreeze._protocol import backend_for  # noqa: E402
from unifreeze.errors import UnifreezeError  # noqa: E402

PAGE = ROOT / "docs" / "en" / "families.md"
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")


class Built(NamedTuple):
    """One class of a family: what was made of it.

    Attributes:
        name: The class, or the function that builds it.
        parameters: How many tensors the framework lists.
        reason: Why it could not be built; "" if it was.
        faults: What of its description is not as the framework lists it.
    """

    name: str
    parameters: int
    reason: str = ""
    faults: tuple[str, ...] = ()


# What is held against what ------------------------------------------------------------------------


def faults(model: Any) -> tuple[str, ...]:
    """Say what of a model's description is not what the framework lists, by identity."""
    backend = backend_for(model)
    try:
        spec, live = backend.describe(model), backend.objects(model)
    except UnifreezeError as error:
        return (f"refused: {error}",)
    described = [id(live[parameter.path]) for parameter in spec.parameters]
    states = {id(live[state.path]) for state in spec.states if state.path in live}
    listed = {id(tensor): name for name, tensor in model.named_parameters()}
    twice = len(described) - len(set(described))
    return tuple(
        f"{what}: {names}"
        for what, names in (
            ("described twice", [str(twice)] if twice else []),
            ("described and not listed", [str(i) for i in described if i not in listed]),
            ("parameter and state", [listed[i] for i in described if i in states & set(listed)]),
            (
                "listed and not described",
                [n for i, n in listed.items() if i not in {*described, *states}],
            ),
            ("in no use", [row.path for row in spec.tree.unused]),
        )
        if names
    )


def tried(name: str, attempts: Iterator[Callable[[], Any]]) -> Built:
    """Build a model in the first way that works, and look at it."""
    reason = "it is not built in any way"
    for attempt in attempts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = attempt()
                count = len(list(model.parameters()))
        except Exception as error:  # whatever a library's own code raises
            reason = _short(error)
            continue
        if not count:
            return Built(name, 0, "it has no parameters")
        return Built(name, count, "", faults(model))
    return Built(name, 0, reason)


def _short(error: Exception) -> str:
    """Say what went wrong, in one line that fits a list."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= 120 else f"{text[:119].rstrip()}…"


# Making configurations smaller --------------------------------------------------------------------

DEPTH = re.compile(r"(?:.*_)?(?:num_(?:\w+_)?layers|n_layers?|layers|depth|num_blocks)")
EXPERTS = re.compile(r"(?:\w+_)?(?:num_(?:\w+_)?experts|n_routed_experts)")
NARROW = {
    "vocab_size": 99, "hidden_size": 16, "d_model": 16, "embed_dim": 16, "n_embd": 16,
    "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "n_head": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "d_ff": 32, "d_kv": 8, "num_heads": 2, "image_size": 32,
    "patch_size": 8, "max_position_embeddings": 32,
}  # fmt: skip
"""Sizes that configurations call alike in most libraries."""


def smaller(config: Any, *, narrow: bool = False) -> dict[str, Any]:
    """Return settings that make a configuration, and those inside it, shallow (and narrow)."""
    found: dict[str, Any] = {}
    for name, value in vars(config).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            inner = {**value.to_dict(), **smaller(value, narrow=narrow)}
            found[name] = {key: item for key, item in inner.items() if key != "model_type"} | {
                "model_type": value.model_type
            }
        elif isinstance(value, bool) or not isinstance(value, int):
            continue
        elif DEPTH.fullmatch(name) and value > 2:
            found[name] = 2
        elif EXPERTS.fullmatch(name) and value > 4:
            found[name] = 4
        elif narrow and name in NARROW:
            found[name] = min(NARROW[name], value)
    return found


def completed(config: Any) -> dict[str, Any]:
    """Return settings that some configurations leave to their users."""
    heads = getattr(config, "num_attention_heads", None)
    more = {"prediction_length": 4, "vocab_size": 99, "num_key_value_heads": heads}
    return {n: v for n, v in more.items() if getattr(config, n, 0) is None and v is not None}


def settings(config_class: Any) -> Iterator[tuple[dict[str, Any], bool]]:
    """Give settings to try a configuration with, and whether the model is to have values."""
    plain = config_class()
    shallow = smaller(plain)
    yield shallow, False
    yield {}, False
    if more := completed(plain):
        yield {**shallow, **more}, False
    yield {**smaller(plain, narrow=True), **more}, True


# The libraries ------------------------------------------------------------------------------------


class TorchVision:
    """torchvision: a family is a function that builds a model, whatever it is for."""

    name, framework = "torchvision", "torch"

    def families(self) -> list[str]:
        """List them."""
        return list(import_torchvision().models.list_models())

    def members(self, family: str) -> Iterator[Built]:
        """Build it."""
        import torch

        def build(place: AbstractContextManager[Any], **more: Any) -> Any:
            with place:
                return import_torchvision().models.get_model(family, weights=None, **more)

        meta = torch.device("meta")
        attempts = (
            lambda: build(meta, weights_backbone=None),
            lambda: build(meta),
            lambda: build(nullcontext()),
        )
        yield tried(family, iter(attempts))


class Transformers:
    """transformers: a family is a configuration; its models are all classes that take it."""

    name, framework = "transformers", "torch"

    def families(self) -> list[str]:
        """List them."""
        import_torchvision()
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        return sorted(CONFIG_MAPPING_NAMES)

    def members(self, family: str) -> Iterator[Built]:
        """Build every model class of a family."""
        from transformers import PreTrainedModel
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        try:
            config_class = CONFIG_MAPPING[family]
            module = import_module(config_class.__module__.replace("configuration_", "modeling_"))
        except Exception as error:  # a family of which there is a configuration alone
            yield Built(family, 0, _short(error))
            return
        classes = _classes(module, PreTrainedModel, config_class)
        if not classes:
            yield Built(family, 0, "no model of it takes its configuration")
        for cls in classes:
            yield tried(cls.__name__, self._attempts(cls, config_class))

    def _attempts(self, cls: Any, config_class: Any) -> Iterator[Callable[[], Any]]:
        import torch

        def build(given: dict[str, Any], place: AbstractContextManager[Any]) -> Any:
            with place:
                return cls(config_class(**given))

        try:
            tries = list(settings(config_class))
        except Exception as error:  # a configuration that must be told what it holds
            yield _raiser(error)
            return
        for given, values in tries:
            yield lambda given=given, v=values: build(
                given, nullcontext() if v else torch.device("meta")
            )


class PaddleVision:
    """paddle.vision: a family is a function that builds a model."""

    name, framework = "paddle.vision", "paddle"

    def families(self) -> list[str]:
        """List them."""
        from paddle.vision import models

        return [name for name in models.__all__ if inspect.isfunction(getattr(models, name))]

    def members(self, family: str) -> Iterator[Built]:
        """Build it."""
        import paddle

        def build() -> Any:
            with paddle.LazyGuard():
                return getattr(paddle.vision.models, family)()

        yield tried(family, iter((build, getattr(paddle.vision.models, family))))


class PaddleNLP:
    """PaddleNLP: a family is a package of models; its models are all classes in it."""

    name, framework = "PaddleNLP", "paddle"

    def families(self) -> list[str]:
        """List them."""
        import paddlenlp.transformers

        return [m.name for m in pkgutil.iter_modules(paddlenlp.transformers.__path__) if m.ispkg]

    def members(self, family: str) -> Iterator[Built]:
        """Build every model class of a family."""
        from paddlenlp.transformers import PretrainedModel

        try:
            module = import_module(f"paddlenlp.transformers.{family}.modeling")
        except ImportError as error:
            yield Built(family, 0, _short(error))
            return
        classes = _classes(module, PretrainedModel, None)
        if not classes:
            yield Built(family, 0, "it holds no model")
        for cls in classes:
            yield tried(cls.__name__, self._attempts(cls))

    def _attempts(self, cls: Any) -> Iterator[Callable[[], Any]]:
        import paddle
        from paddlenlp.transformers.model_utils import no_init_weights

        def build(given: dict[str, Any], place: AbstractContextManager[Any]) -> Any:
            with no_init_weights(), place:
                return cls(cls.config_class(**given))

        try:
            tries = list(settings(cls.config_class))
        except Exception as error:  # a model without a configuration
            yield _raiser(error)
            return
        for given, values in tries:
            yield lambda given=given, v=values: build(
                given, nullcontext() if v else paddle.LazyGuard()
            )


LIBRARIES = (TorchVision(), Transformers(), PaddleVision(), PaddleNLP())


def _classes(module: Any, base: type, config_class: Any) -> list[Any]:
    """Return the model classes that a module defines, but those that only others derive from."""
    found = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, base) and cls.__module__ == module.__name__
        if config_class is None or getattr(cls, "config_class", None) is config_class
    ]
    return [cls for cls in found if "forward" in vars(cls) or not _is_a_base(cls, found)]


def _is_a_base(cls: type, others: list[type]) -> bool:
    return any(cls in other.__mro__[1:] for other in others)


def _raiser(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from telling what they do."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


# The page -----------------------------------------------------------------------------------------


def look_at(library: Any, family: str) -> list[Built]:
    """Build a family and look at its models."""
    with quiet():
        found = list(library.members(family))
    gc.collect()
    return found


def page(rows: dict[str, dict[str, list[Built]]]) -> str:
    """Write the page: what was built, and what could not be, with the reason."""
    lines = [
        "# Every family of models, described whole",
        "",
        "For each model: described parameters, state among the framework's parameters, and copies",
        "in no use together are what the framework's own `parameters()` lists, by identity, each",
        "once. Built shallow and without values; written by `python -m tests.support.families`",
        "(`make families`), of which CI runs a share.",
        "",
        "| library | families | built | models | parameters | as the framework lists them |",
        "|---|---|---|---|---|---|",
    ]
    for library, families in rows.items():
        built = {f: [b for b in found if not b.reason] for f, found in families.items()}
        models = [b for found in built.values() for b in found]
        wrong = [b for b in models if b.faults]
        lines.append(
            f"| {library} | {len(families)} | {sum(map(bool, built.values()))} | {len(models)} | "
            f"{sum(b.parameters for b in models):,} | {len(models) - len(wrong)} |"
        )
    for library, families in rows.items():
        lines += ["", f"## {library}", "", *_built(families), "", "Not built, and why:", ""]
        lines += _not_built(families)
    return "\n".join([*lines, ""])


def _built(families: dict[str, list[Built]]) -> Iterator[str]:
    names = [
        f"{family} ({count})" if (count := sum(not b.reason for b in found)) > 1 else family
        for family, found in families.items()
        if any(not b.reason for b in found)
    ]
    yield f"Built (with the number of models): {', '.join(names)}."


def _not_built(families: dict[str, list[Built]]) -> Iterator[str]:
    for family, found in families.items():
        missing = [b for b in found if b.reason and b.reason != "it has no parameters"]
        reasons = dict.fromkeys(b.reason for b in missing)
        for reason in reasons:
            names = [b.name for b in missing if b.reason == reason]
            what = family if len(names) == len(found) else f"{family}: {', '.join(names)}"
            yield f"- {what}: {reason}"


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="hold every family against the framework's list")
    parser.add_argument("libraries", nargs="*", help="only these; prints, and writes nothing")
    given = parser.parse_args()
    chosen = [lib for lib in LIBRARIES if not given.libraries or lib.name in given.libraries]
    rows: dict[str, dict[str, list[Built]]] = {}
    wrong, start = 0, time.perf_counter()
    for library in chosen:
        rows[library.name] = {}
        for family in library.families():
            found = rows[library.name][family] = look_at(library, family)
            for built in found:
                if built.faults:
                    wrong += 1
                    print(f"{library.name} {family} {built.name}: {built.faults}", flush=True)
        print(f"{library.name}: {time.perf_counter() - start:.0f} s", flush=True)
    if not given.libraries:
        PAGE.write_text(page(rows), encoding="utf-8")
    print(page(rows).partition("\n## ")[0])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
