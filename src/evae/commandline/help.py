"""How the help of a command shows its options: with dashes, and defaults where there are some, without Python types."""

from argparse import SUPPRESS
from typing import Any

from jsonargparse import DefaultHelpFormatter


class OptionHelp(DefaultHelpFormatter):
    """A formatter for argparse."""

    def _get_help_string(self, action: Any) -> str:
        text = (action.help or "").rstrip(".")
        default = None if action.default == SUPPRESS else action.default
        if not action.option_strings or isinstance(default, bool):
            return text
        if action.required:
            return f"{text} (required)"
        return text if default is None or "default:" in text else f"{text} (default: {_shown(default)})"

    def _format_action_invocation(self, action: Any) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = ", ".join(dashed(name) for name in action.option_strings)
        if getattr(action, "_typehint", None) is bool or action.nargs == 0:
            return names
        return f"{names} {self._format_args(action, self._get_default_metavar_for_optional(action))}".rstrip()

    def _get_default_metavar_for_optional(self, action: Any) -> str:
        kinds = {int: "N", float: "X"}
        hint = getattr(action, "_typehint", action.type)
        found = [kinds[kind] for kind in (hint, *getattr(hint, "__args__", ())) if kind in kinds]
        return found[0] if found else super()._get_default_metavar_for_optional(action)


def _shown(default: Any) -> str:
    """A default as it would be typed."""
    return f"{default:.6g}" if isinstance(default, float) else str(default)


def dashed(option: str) -> str:
    """--batch-size for --batch_size; hyperparameters of a model, --model.latent_dim, keep their names."""
    if option == "--model.class_path":
        return "--model"
    return option if "." in option else option.replace("_", "-")
