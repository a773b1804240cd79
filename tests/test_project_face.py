"""What the project says about itself: version, changelog, citation, security, templates."""

import re
import tomllib
from pathlib import Path

import typer
import yaml
from trove_classifiers import classifiers

import unifreeze
from unifreeze._cli import app

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"


def text_of(name):
    return (ROOT / name).read_text("utf-8")


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "unifreeze/__init__.py"
    for name in ("pyproject.toml", "CITATION.cff"):
        assert unifreeze.__version__ not in text_of(name)


def test_the_metadata_names_its_authors_and_known_classifiers():
    assert PROJECT["project"]["authors"] == [{"name": "unifreeze developers"}]
    assert set(PROJECT["project"]["classifiers"]) <= classifiers


def test_the_changelog_names_every_command_and_public_name_of_this_version():
    begin = text_of("CHANGELOG.md").split(f"## [{unifreeze.__version__}]")[1]
    section = re.split(r"^## ", begin, flags=re.M)[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert set(typer.main.get_command(app).commands) <= named
    assert set(unifreeze.__all__) <= named


def test_the_citation_can_be_read():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == PROJECT["project"]["name"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["authors"] == PROJECT["project"]["authors"]


def test_security_reports_go_through_the_hosts_form_and_to_no_address():
    assert "Report a vulnerability" in text_of("SECURITY.md")
    assert "@" not in text_of("SECURITY.md")


def test_a_bug_report_asks_for_what_is_needed_to_repeat_it():
    form = yaml.safe_load((FORMS / "bug_report.yml").read_text("utf-8"))
    fields = {field["id"]: field for field in form["body"]}
    assert list(fields) == ["versions", "plan", "model", "ran", "message", "expected"]
    assert all(field["validations"]["required"] for field in fields.values())
    asked = fields["versions"]["attributes"]["description"]
    assert {"unifreeze --version", "unifreeze backends"} <= set(re.findall("`(.+?)`", asked))


def test_every_form_has_what_the_host_requires():
    for file in FORMS.glob("*.yml"):
        form = yaml.safe_load(file.read_text("utf-8"))
        if file.name == "config.yml":
            assert set(form) == {"blank_issues_enabled"}
            continue
        assert {"name", "description", "body"} == set(form)
        for field in form["body"]:
            assert field["type"] == "textarea"
            assert field["attributes"]["label"]


def test_the_pull_request_template_names_commands_and_folders_that_exist():
    text = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text("utf-8")
    assert "`make check`" in text
    for name in re.findall(r"`((?:tests|docs)/[\w/]*)`", text):
        assert (ROOT / name).exists(), name
