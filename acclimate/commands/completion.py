"""Scripts that make a shell complete verbs, flags and names of methods."""

import json
import re
from collections.abc import Mapping, Sequence
from string import Template

from acclimate.commands.methods import RECORD
from acclimate.errors import unknown_name

SHELLS = ("bash", "zsh", "fish")

_DEFINED = re.compile(r"^[ │]{0,3}(--[a-z].*?)(?:  |$)", re.MULTILINE)  # then comes what it means
_FLAG = re.compile(r"(?<!\S)--(?!no-|[\w.-]+\.no-)[a-z][\w.-]*")

_BASH = Template("""\
_acclimate() {
  local word="$${COMP_WORDS[COMP_CWORD]}" before="$${COMP_WORDS[COMP_CWORD - 1]}"
  local words=
  if ((COMP_CWORD == 1)); then
    words="$verbs"
  elif [[ $$before == --method || $$before == --methods ]]; then
    words="$methods"
  elif [[ $$word == -* ]]; then
    case "$${COMP_WORDS[1]}" in
$cases
    esac
  fi
  COMPREPLY=($$(compgen -W "$$words" -- "$$word"))
}
complete -o default -F _acclimate acclimate
""")

# zsh knows bash's completion after bashcompinit, which needs compinit: a plain zsh has run neither.
_ZSH = """\
autoload -Uz compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
"""


def script(shell: str, helps: Mapping[str, str]) -> str:
    """The script of a shell; where nothing is known, files are completed.

    ```python
    script("bash", {"info": "  --json   Print everything as JSON."})
    ```

    Args:
        shell: One of `SHELLS`.
        helps: The text of each verb's help, from which its flags are read.

    Raises:
        InputError: another shell.
    """
    if shell not in SHELLS:
        raise unknown_name("shell", shell, SHELLS)
    flags = {verb: flags_in(text) for verb, text in helps.items()}
    methods = list(json.loads(RECORD.read_text(encoding="utf-8"))["methods"])
    if shell == "fish":
        return _fish(flags, methods)
    cases = "\n".join(f'      {verb}) words="{" ".join(flags[verb])}" ;;' for verb in flags)
    made = _BASH.substitute(verbs=" ".join(flags), methods=" ".join(methods), cases=cases)
    return made if shell == "bash" else _ZSH + made


def flags_in(text: str) -> list[str]:
    """The flags that a help text defines, sorted; the forms that switch off are left out.

    ```python
    flags_in("  --json, --no-json  Print JSON.")  # ["--json"]
    ```
    """
    found = {flag for line in _DEFINED.findall(text) for flag in _FLAG.findall(line)}
    return sorted(found)


def _fish(flags: Mapping[str, Sequence[str]], methods: Sequence[str]) -> str:
    lines = [f'complete -c acclimate -n __fish_use_subcommand -f -a "{" ".join(flags)}"']
    for verb, names in flags.items():
        for name in names:
            seen = f'-n "__fish_seen_subcommand_from {verb}"'
            known = f' -x -a "{" ".join(methods)}"' if name in ("--method", "--methods") else ""
            lines.append(f"complete -c acclimate {seen} -l {name.removeprefix('--')}{known}")
    return "\n".join(lines) + "\n"
