"""The site that `make docs` has built: its links lead somewhere, and its search finds words.

python -m tests.support.built_site build/docs
"""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import jieba
from sphinx.search.en import SearchEnglish
from sphinx.search.zh import SearchChinese

jieba.setLogLevel(logging.WARNING)
SEARCHED = {"en": ("stop_gradient", "verify"), "zh": ("stop_gradient", "冻结")}
STEMMERS = {"en": SearchEnglish, "zh": SearchChinese}


def broken_links(site: Path) -> list[str]:
    """The links between pages that lead nowhere, also to a part of a page that is not there."""
    broken = []
    texts = {page: page.read_text("utf-8") for page in sorted(site.rglob("*.html"))}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in texts.items()}
    for page, text in texts.items():
        for target in re.findall(r'<a [^>]*href="([^"]+)"', text):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, part = unquote(target).partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.exists() or (part and file in anchors and part not in anchors[file]):
                broken.append(f"{page.relative_to(site)}: {target}")
    return broken


def found_by_search(folder: Path, language: str, word: str) -> list[str]:
    """The pages on which the search of a built site finds a word, by its stem as in the browser."""
    script = (folder / "searchindex.js").read_text("utf-8")
    index = json.loads(script.partition("Search.setIndex(")[2].rstrip(" ;)\n"))
    stem = STEMMERS[language]({}).stem(word.lower())
    numbers = [index[kind].get(stem, []) for kind in ("terms", "titleterms")]
    flat = {n for one in numbers for n in (one if isinstance(one, list) else [one])}
    return sorted(index["docnames"][number] for number in flat)


def main(site: Path) -> int:
    """Print how many pages there are and what was found; return 1 if something is missing."""
    wrong = broken_links(site)
    for language, words in SEARCHED.items():
        folder = site / language
        print(f"{language}: {len(list(folder.glob('*.html')))} pages", end="")
        for word in words:
            pages = found_by_search(folder, language, word)
            print(f"; {word}: found on {len(pages)}", end="")
            if not pages:
                wrong.append(f"the search of {language} does not find {word}")
        print()
    print("\n".join(wrong) or "every link leads somewhere")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
