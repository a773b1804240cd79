"""Judge many random networks, or a few by their seeds; exits 1 if a pairing was wrong."""

import argparse
import sys
from collections import Counter

from tests.support.pairs.drawn import draw, judge


def main() -> int:
    parser = argparse.ArgumentParser(description="pair random networks and judge them")
    parser.add_argument("seeds", nargs="*", type=int, help="these alone, with what was said")
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args()
    counts, without_obstacle = Counter(), []
    for seed in given.seeds or range(given.count):
        net = draw(seed)
        outcome = judge(net, backwards=bool(seed % 2))
        counts[outcome.verdict] += 1
        why = outcome.why if given.seeds else outcome.why[:160].replace("\n", "; ")
        print(seed, net.domain, net.naming, outcome.verdict, sorted(net.obstacles), why, flush=True)
        if outcome.verdict in ("refused", "partly") and not net.obstacles:
            without_obstacle.append(seed)
    print(dict(counts), "refused without an obstacle:", without_obstacle)
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
