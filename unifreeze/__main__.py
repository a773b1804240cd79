"""`python -m unifreeze` and the command `unifreeze`, which need the extra `cli`."""

import sys

_NEEDED = ("typer", "rich", "click")


def main() -> None:
    """Run the command line; without `typer` and `rich`, say how to install them."""
    try:
        from unifreeze._cli import main as run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _NEEDED:
            raise
        sys.stderr.write(
            f"Error: the command unifreeze needs {package}, which is not installed\n"
            "  hint: pip install 'unifreeze[cli]'\n"
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
