"""Words in names that say what goes through a part of a model: pictures, sound, words, actions.

They are words for what a part does ("vision", "speech", "projector"), never names of models.
"""

from __future__ import annotations

import re
from functools import cache

from unifreeze._structure.words_in_names import WORD, words_in

SIGNALS = ("vision", "audio")
"""Towers that pictures or sound enter."""

MODALITIES = ("text", *SIGNALS)
"""Towers that something enters from outside."""

_PIECES = {
    "vision": "vision visual visuals image images img pixel pixels picture video",
    "audio": "audio speech sound acoustic wav wave waveform spectrogram spec mel",
    "text": "text txt language llm",
    "action": "action actions",
}
_WORD_OF = {piece: word for word, pieces in _PIECES.items() for piece in pieces.split()}
_CLEAR = frozenset(["projector", "connector", "aligner", "merger", "resampler", "abstractor"])
_VAGUE = frozenset(["projectors", "projection", "projections", "proj"])
_INSIDE_TOWERS = frozenset(["adaptor", "adapter", "bridge", "align"])
_PROJECTORS = _CLEAR | _VAGUE | _INSIDE_TOWERS
_OUTPUT = frozenset({"generation", "generator", "generative", "gen"})
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@cache
def pieces_of(segment: str) -> frozenset[str]:
    """Return the words that a segment of a path or a class name is made of.

    >>> sorted(pieces_of("visual_proj2")), sorted(pieces_of("VisionTower"))
    (['proj', 'visual'], ['tower', 'vision'])
    """
    return frozenset(piece.lower() for piece in _PIECE.findall(segment))


@cache
def word_in(segment: str) -> str:
    """Return the tower that one segment of a path, or one class name, speaks of; "" for none.

    >>> [word_in(name) for name in ("vision_tower", "visual_projection", "Text2Speech", "layers")]
    ['vision', 'projector', '', '']
    """
    pieces = pieces_of(segment)
    words = {_WORD_OF[piece] for piece in pieces & _WORD_OF.keys()}
    if "action" in words:
        return "action"
    if words == {"vision"} and "decoder" in pieces and "encoder" not in pieces:
        return "image_decoder"
    if pieces & _PROJECTORS:
        return "" if "embedding" in pieces else "projector"
    return words.pop() if len(words) == 1 else ""


@cache
def makes_output(segment: str) -> bool:
    """Return whether a segment speaks of generation of pictures or sound.

    >>> makes_output("generation_head"), makes_output("aligner")
    (True, False)
    """
    return not pieces_of(segment).isdisjoint(_OUTPUT)


@cache
def is_clear(segment: str) -> bool:
    """Return whether a projector's name leaves no doubt.

    >>> is_clear("merger"), is_clear("proj")
    (True, False)
    """
    return not pieces_of(segment).isdisjoint(_CLEAR)


@cache
def is_output(segment: str) -> bool:
    """Return whether a projection's name says that the model ends with it.

    >>> is_output("proj_out"), is_output("enc_to_dec_proj")
    (True, False)
    """
    return not pieces_of(segment).isdisjoint({"out", "output", "logits", "head"})


@cache
def speaks_of_text(segment: str) -> bool:
    """Return whether a segment speaks of text, whatever else it speaks of.

    >>> speaks_of_text("text_projection"), speaks_of_text("language_projection")
    (True, False)
    """
    return not pieces_of(segment).isdisjoint({"text", "txt"})


@cache
def is_word_head(segment: str) -> bool:
    """Return whether a segment is called a head of a language model.

    >>> is_word_head("lm_head"), is_word_head("head")
    (True, False)
    """
    return pieces_of(segment) == {"lm", "head"}


@cache
def ends_a_tower(segment: str) -> bool:
    """Return whether a segment names a projector that a tower itself holds, at its end.

    >>> ends_a_tower("merger"), ends_a_tower("adapter")  # an adapter may shorten sound in its tower
    (True, False)
    """
    return bool(pieces_of(segment) & (_CLEAR | _VAGUE))


_TABLE = re.compile(
    r"(?:\w*(?:tok|tokens?|words?|chars?|vocab|text|input)_?)?"
    r"(?:embed(?:der|dings?|s|_?tokens)?|embs?|lookup)|tokens?|vocab"
)


@cache
def names_a_token_table(segment: str) -> bool:
    """Return whether a table's name says that it looks tokens up.

    >>> names_a_token_table("embed_tokens"), names_a_token_table("denoising_class_embed")
    (True, False)
    """
    return bool(words_in(segment) & WORD) or bool(_TABLE.fullmatch(segment.lower()))
