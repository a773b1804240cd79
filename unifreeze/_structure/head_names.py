"""The words by which heads and necks go in names: of modules, and of bare parameters.

They are layers' words (`classifier`, `lm_head`, `class_embed`), never models' names.
"""

from __future__ import annotations

import re

_HEAD = r"(?:\w+_)?(?:heads?|classifiers?|cls|logits|scores?|pred(?:s|ict(?:ions?|ors?)?)?)"
_PREDICTS = r"(?:class|bbox|mask)_(?:embed|pred\w*|labels_\w+)|(?:head|classifier)_\w+"
_HEAD_NAME = re.compile(rf"{_HEAD}\d*|{_PREDICTS}|fc|output_layer|pre_logits", re.I)
_HEAD_LEAF = re.compile(rf"(?:{_HEAD}|decoder)_(?:weight|bias)", re.I)
_CLASSES_NAME = re.compile(
    r"(?!pre)(?:\w+_)?(?:class(?:es|ifiers?|ification)?|cls|scores?|logits)(?:_\w+|\d*)", re.I
)
_NECK_NAME = re.compile(r"(?:\w+_)?neck\d*", re.I)
_FEEDS_NAME = re.compile(r".*(?:proj|encod|connector|resampl|merger).*", re.I)


def named_for_head(path: str) -> bool:
    """Return whether a path says that a module is a head, or in one.

    >>> named_for_head("head.fc"), named_for_head("semantic_embed.3")
    (True, False)
    """
    return any(_HEAD_NAME.fullmatch(segment) for segment in path.split("."))


def named_for_classes(path: str) -> bool:
    """Return whether a path says that a layer scores classes, where other layers place boxes.

    >>> named_for_classes("class_embed.0"), named_for_classes("box_predictor.cls_score")
    (True, True)
    >>> named_for_classes("bbox_embed.0"), named_for_classes("pre_classifier")
    (False, False)
    """
    return any(_CLASSES_NAME.fullmatch(segment) for segment in path.split("."))


def named_for_outputs(leaf: str) -> bool:
    """Return whether a bare parameter of a whole model is a head's by its name.

    >>> named_for_outputs("lm_head_weight"), named_for_outputs("cls_token")
    (True, False)
    """
    return bool(_HEAD_LEAF.fullmatch(leaf))


def named_for_neck(segment: str) -> bool:
    """Return whether a part of a model is called neck.

    >>> named_for_neck("neck"), named_for_neck("bottleneck")
    (True, False)
    """
    return bool(_NECK_NAME.fullmatch(segment))


def named_for_feeding(segment: str) -> bool:
    """Return whether a part of a model leads into a tower by its name, so that it is not a head.

    >>> named_for_feeding("image_to_text_projection"), named_for_feeding("class_embed")
    (True, False)
    """
    return bool(_FEEDS_NAME.fullmatch(segment))
