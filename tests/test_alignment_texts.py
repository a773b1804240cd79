"""The texts of an acceptance report: punctuation, nouns beside numbers, and lists that are cut."""

import json
import re

import pytest

from tests.support.chinese import half_width
from unifreeze._evidence.alignment import AlignmentReport
from unifreeze._evidence.alignment.finding_words import PREFIXES, SENTENCES, in_chinese
from unifreeze._evidence.alignment.report_text import folded
from unifreeze._evidence.alignment.setting_words import TERMS
from unifreeze._evidence.alignment.words import (
    LINES,
    SECTION_TITLES,
    SOURCES,
    VERDICTS,
    WORDS,
    filled,
)

PAIRS = {**SECTION_TITLES, **VERDICTS, **WORDS, **SOURCES, **LINES}
CHINESE = [*(pair[1] for pair in PAIRS.values()), *SENTENCES.values(), *TERMS.values()]


def test_a_half_width_mark_beside_chinese_is_found():
    wrong = ["结论:未对齐", "一致(output)", "共 3 项, 通过", "方案: `train: all`", "(层)", "甲;乙"]
    right = ["结论：`a: b`", "一致（output）", "hints=、--map", "（已扣除 n/(n-1)）"]
    assert half_width("\n".join(wrong)) == [re.sub("`.*`", "x", line) for line in wrong]
    assert half_width("\n".join([*right, "| Net (torch) | 通过 |"])) == []


@pytest.mark.parametrize("text", CHINESE)
def test_chinese_sentences_have_full_width_punctuation(text):
    """Also beside what is filled in, which may be Chinese."""
    assert not half_width(re.sub(r"\{[^}]*\}", "层", text))
    assert not half_width("".join(PREFIXES.values()))


@pytest.mark.parametrize("english", SENTENCES)
def test_a_chinese_sentence_holds_all_that_is_filled_into_the_english_one(english):
    names = [f"name{number}" for number in range(english.count("{}"))]
    chinese = SENTENCES[english].format(*names)
    assert [name for name in names if name not in chinese] == []


def test_the_subject_of_a_finding_has_a_full_width_colon():
    text = "stem.weight: differs by 1.8e+00, and 1.0e-05 is allowed"
    assert in_chinese(text) == "stem.weight：相差 1.8e+00，允许 1.0e-05"
    assert in_chinese(f"note: {text}") == "说明：stem.weight：相差 1.8e+00，允许 1.0e-05"


NUMBERS = re.compile(r"\{(\w+):[^}]*/[^}]*\}")


@pytest.mark.parametrize("key", [key for key, pair in PAIRS.items() if NUMBERS.search(pair[0])])
def test_nouns_and_verbs_follow_their_numbers(key):
    text = PAIRS[key][0]
    facts = {name: "x" for name in re.findall(r"\{(\w+)[:}]", text)}
    counts = set(NUMBERS.findall(text))
    one, many = (filled(text, facts | dict.fromkeys(counts, n)) for n in (1, 2))
    assert one.replace("1", "2") != many
    assert not re.search(r"\b1 (?:paired |greedy )?(?!is\b)[a-z]+s\b(?<!holds)", one), one
    assert not re.search(r"\b(2|0) (?:paired |greedy )?(?:layer|tensor|gradient|token)\b", many)


@pytest.mark.parametrize("key", LINES)
def test_a_number_stands_beside_a_noun_that_follows_it(key):
    """A plural after a bare number would be wrong for one."""
    bare = re.search(r"\{(?!times|row|number)\w+\} [a-z]+s\b", LINES[key][0])
    assert not bare or bare[0].endswith(("is", "has")), bare


def many(count):
    return [
        f"dropout 0.1 in layers.{n}.drop of torch: no layer of paddle is in its place"
        for n in range(count)
    ]


def test_long_lists_of_one_kind_are_folded():
    other = ["b: differs by 1.0e-01"]
    assert list(folded([*many(4), *other])) == [*many(4), *other]
    assert list(folded([*many(24), *other])) == [
        *many(3),
        "… and 21 more of the same kind",
        *other,
    ]
    assert in_chinese("… and 21 more of the same kind") == "……另有 21 项同类"
    assert (
        half_width(
            in_chinese("default epsilon of a, b, … (3 more): 1e-6 in torch, 1e-8 in paddle: x y")
        )
        == []
    )


def line(section, key, verdict="holds", details=(), **facts):
    return {"section": section, "key": key, "verdict": verdict, "facts": facts, "details": details}


def report(steps=3, **changes):
    losses = [1.0 + 0.01 * n for n in range(steps + 1)]
    other = [loss + 1e-9 for loss in losses]
    other[len(losses) * 2 // 3] += 0.5
    known = {
        "unifreeze_alignment": 1,
        "frameworks": ["torch", "paddle"],
        "models": ["Net", "Net"],
        "plan": {"unifreeze": 1, "rules": [{"train": "all"}]},
        "steps": steps,
        "seed": 0,
        "weights": "",
        "inputs": ["float32[2, 3]", "ids: int64[2, 3]"],
        "lines": [
            line("pairing", "paired", parameters=1, statistics=2),
            line("gradients", "decisions", details=["a: differs by 1.0e-01"]),
            line("gradients", "frozen", details=["a: differs by 1.0e-01"]),
            line("training", "losses", steps=steps),
            line("settings", "random layers", "open", many(24), count=24),
        ],
        "curves": {"one": losses, "other": other, "kind": "cross-entropy", "output": "logits"},
    }
    return AlignmentReport(**known | changes)


def test_a_report_is_folded_where_it_is_read_and_whole_in_its_file():
    made = report()
    for language, more in (("en", "… and 21 more of the same kind"), ("zh", "……另有 21 项同类")):
        page = made.to_markdown(language)
        assert page.count("layers.") == 3
        assert more in page
    assert str(made).count("layers.") == 3
    assert json.dumps(made.to_json()).count("layers.") == 24


def test_lines_are_numbered_and_equal_findings_stand_once():
    pages = {language: report().to_markdown(language) for language in ("en", "zh")}
    for page in pages.values():
        assert re.findall(r"^\| (\d+) \| \D", page, re.M) == ["1", "2", "3", "4", "5"]
        assert page.count("a: differs by") + page.count("a：相差") == 1
    assert "Lines 2, 3:" in pages["en"]
    assert "Line 5:" in pages["en"]
    assert "第 2、3 项：" in pages["zh"]
    assert "1 parameter and 2 statistics" in pages["en"]
    assert "5 lines: 4 hold, 0 broken, 1 open, 0 notes, 0 not checked." in pages["en"]
    assert not half_width(pages["zh"])


@pytest.mark.parametrize("steps", [3, 24, 25, 300])
def test_of_many_losses_some_are_shown_with_the_worst_and_the_last(steps):
    page = report(steps).to_markdown()
    rows = re.findall(r"^\| (\d+) \| [\d.]+ \| [\d.]+ \|", page, re.M)
    assert len(rows) <= 25
    assert rows[0] == "0"
    assert rows[-1] == str(steps)
    assert str((steps + 1) * 2 // 3) in rows
    assert (f"{len(rows)} of {steps + 1} losses" in page) == (steps > 24)


def test_a_loss_that_is_not_finite_is_the_worst():
    made = report(40)
    losses = list(made.curves.other)
    losses[7] = float("nan")
    made = made.model_copy(update={"curves": made.curves.model_copy(update={"other": losses})})
    assert "| 7 | 1.070000 | nan | nan |" in made.to_markdown()


def test_the_picture_has_its_words_in_both_languages():
    made = report()
    assert "Loss of logits: cross-entropy with seeded labels" in str(made.to_svg())
    assert "固定种子标签的交叉熵" in str(made.to_svg("zh"))
    empty = report(curves=None)
    assert "no training was run" in str(empty.to_svg())
    assert "没有进行训练" in str(empty.to_svg("zh"))
