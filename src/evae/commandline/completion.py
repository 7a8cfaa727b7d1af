"""``evae --print-completion SHELL``: a script that completes commands, options and their values, and names of files."""

from collections.abc import Callable, Mapping

from evae.checks import one_of

# For each command its options as they are typed, each with its possible values: none where it takes others, or files.
Completions = Mapping[str, Mapping[str, tuple[str, ...]]]


def script(shell: str, commands: Completions) -> str:
    """The script for bash, zsh or fish; it needs nothing of evae when it runs.

    Raises:
        ConfigError: it is another shell.
    """
    return _SHELLS[one_of("--print-completion", shell, _SHELLS)](commands)


def _bash(commands: Completions) -> str:
    options = "\n".join(f'    {name}) words="{" ".join(options)}" ;;' for name, options in commands.items())
    return f"""\
_evae() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" words=""
  case "$command ${{COMP_WORDS[COMP_CWORD-1]}}" in
{_cases(commands, '    "{}") words="{}" ;;')}
  esac
  if [[ $COMP_CWORD -eq 1 ]]; then
    words="{" ".join(commands)}"
  elif [[ -z $words && $current == -* ]]; then
    case "$command" in
{options}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o bashdefault -o default -F _evae evae
"""


def _zsh(commands: Completions) -> str:
    options = "\n".join(f"      ({name}) compadd -- {' '.join(options)} ;;" for name, options in commands.items())
    return f"""\
#compdef evae
_evae() {{
  if (( CURRENT == 2 )); then
    compadd -- {" ".join(commands)}
    return
  fi
  case "$words[2] $words[CURRENT-1]" in
{_cases(commands, '    ("{}") compadd -- {}; return ;;')}
  esac
  if [[ $PREFIX == -* ]]; then
    case "$words[2]" in
{options}
    esac
  else
    _files
  fi
}}
compdef _evae evae
"""


def _fish(commands: Completions) -> str:
    lines = [f"complete -c evae -n __fish_use_subcommand -f -a {name}" for name in commands]
    for name, options in commands.items():
        for option, values in options.items():
            of = f"complete -c evae -n '__fish_seen_subcommand_from {name}' -l {option.removeprefix('--')}"
            lines.append(f"{of} -x -a '{' '.join(values)}'" if values else of)
    return "\n".join(lines) + "\n"


def _cases(commands: Completions, form: str) -> str:
    """A line for each option that has a choice of values."""
    choices = {f"{name} {option}": values for name, of in commands.items() for option, values in of.items() if values}
    return "\n".join(form.format(words, " ".join(values)) for words, values in choices.items())


_SHELLS: dict[str, Callable[[Completions], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
