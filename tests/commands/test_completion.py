"""Completion scripts: they name what the parsers know, and work in the shells that are here."""

import os
import shutil
import subprocess

import pytest

from acclimate.cli import completion_script, help_of, main
from acclimate.commands import VERBS
from acclimate.commands.completion import flags_in, script
from acclimate.errors import InputError
from acclimate.methods import METHODS

HELPS = {"adapt": "  --batch INT  Images.\n  --shuffle, --no-shuffle\n    As --such.", "info": ""}
ASK = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_acclimate; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(tmp_path, *words):
    """What bash offers for the last word."""
    path = tmp_path / "script"
    path.write_text(script("bash", HELPS))
    quoted = " ".join(f"'{word}'" for word in words)
    asked = ["bash", "-c", ASK.format(script=path, words=quoted)]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_verbs_flags_and_methods(tmp_path):
    assert completed(tmp_path, "acclimate", "") == ["adapt", "info"]
    assert completed(tmp_path, "acclimate", "a") == ["adapt"]
    assert completed(tmp_path, "acclimate", "adapt", "--s") == ["--shuffle"]
    assert completed(tmp_path, "acclimate", "adapt", "some") == [], "files are the shell's own"
    offered = completed(tmp_path, "acclimate", "adapt", "--method", "")
    assert offered == list(METHODS)


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "-n")])
def test_the_scripts_are_of_their_shells(tmp_path, shell, check):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    path = tmp_path / "script"
    path.write_text(script(shell, HELPS))
    subprocess.run([shell, check, str(path)], check=True)


@pytest.mark.parametrize("before", ["", "autoload -Uz compinit; compinit -u; "])
def test_zsh_takes_the_script_with_its_own_completion_on_or_off(tmp_path, before):
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh")
    path = tmp_path / "script"
    path.write_text(script("zsh", HELPS))
    own = os.environ | {"ZDOTDIR": str(tmp_path)}  # where compinit keeps what it found
    asked = ["zsh", "-f", "-c", f"{before}source {path}; print $_comps[acclimate]"]
    done = subprocess.run(asked, env=own, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split()[-1] == "_acclimate"


def test_fish_names_each_flag_with_its_verb():
    lines = script("fish", HELPS).splitlines()
    assert 'complete -c acclimate -n "__fish_seen_subcommand_from adapt" -l shuffle' in lines


def test_flags_are_those_that_a_parser_defines():
    assert flags_in(HELPS["adapt"]) == ["--batch", "--shuffle"]
    flags = flags_in(help_of("info"))
    assert flags == ["--json", "--trust-code"]


def test_every_verb_is_completed(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--completion", "fish"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert all(f"subcommand_from {verb}" in said for verb in VERBS)


@pytest.mark.parametrize("given", [[], ["tcsh"], ["bash", "zsh"]])
def test_one_shell_is_asked_for(given):
    with pytest.raises(InputError, match="shell"):
        completion_script(given)
