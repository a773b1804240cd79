"""The table at the end of `make errors`: which checks caught how many."""

from tests.support.porting_errors import Outcome, RandomRow, summary

CAUGHT_BY_ALL = Outcome(1.0, 3, 0.5, ("outputs", "settings"))
MISSED_BY_USUAL = Outcome(1e-3, None, 0.01, ("settings",))
HARMLESS = Outcome(0.0, 10, 0.0, ())


def test_a_run_ends_with_a_table_of_which_checks_caught_how_many():
    drawn = [
        RandomRow(None, "eps", "outputs", MISSED_BY_USUAL),
        RandomRow(None, "mode", "", Outcome(float("nan"), None, 0.0, ())),
    ]
    text = summary(
        [CAUGHT_BY_ALL, MISSED_BY_USUAL], [HARMLESS], drawn, {"bert": (), "opt": ("settings",)}
    )
    assert text.splitlines() == [
        "check               errors  random edits  false alarms",
        "logits within 1e-2  1 of 2  0 of 1        1 of 2",
        "10 equal tokens     1 of 2  0 of 1        0 of 2",
        "losses within 5%    1 of 2  0 of 1        0 of 2",
        "the usual checks    1 of 2  0 of 1        1 of 2",
        "align               2 of 2  1 of 1        1 of 4",
        "  outputs           1       0             0",
        "  settings          2       1             0",
    ]
