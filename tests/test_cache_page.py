"""The code in docs/en/frozen-cache.md runs."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "en" / "frozen-cache.md"


def test_the_code_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
