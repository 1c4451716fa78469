"""The recipe: one typed tree composed of the components' own Configs; loaded from YAML, overridden, saved whole.

Precedence: defaults < the recipe that this one `extends` < the recipe < `@file` of flags < the command line. A flag is
a dotted key (`--train.steps 500`) or the flat name that the field declares (`--steps 500`); `eco.interface` knows
further names. `--preset tiny` stands for all settings in which `sigma-tiny` differs from `sigma` and its other presets.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, SerializeAsAny, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo

from eco import interface, plugins
from eco.config import Config, LocalPath, flat_name, nearest, setting
from eco.data.contract import DataConfig
from eco.data.prepare import TextConfig
from eco.data.tokenizer import TokenizerConfig
from eco.files import replacing
from eco.flags import COMMAND_LINE, FROM_PYTHON, SHIPPED, Flag
from eco.improvement.config import ImproveConfig
from eco.inference.sampling import Sampling
from eco.models.contract import ModelConfig
from eco.optim.contract import OptimizerConfig
from eco.training.config import CheckpointConfig, CreditConfig, LogConfig, TrainConfig


class Plug(NamedTuple):
    """A section whose keys are the Config of a plug-in.

    room: where the plug-ins are. key: the section's key that names one. flat: the flat flag that does.
    otherwise: the Config of a section that names none; without one it must.
    """

    room: str
    key: str
    flat: str
    otherwise: type[Config] | None = None


PLUGS = {
    "model": Plug("models", "family", "family"),
    "optimizer": Plug("optim", "name", "optimizer"),
    "data": Plug("tasks.puzzles", "puzzle", "puzzle", otherwise=TextConfig),
}


class Recipe(Config):
    """A whole run. `model`, `optimizer` and `data` hold the Config of what they name; see PLUGS."""

    description: str = setting("", "One line for `eco recipes`.")
    model: SerializeAsAny[ModelConfig]
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: SerializeAsAny[DataConfig] = TextConfig()
    optimizer: SerializeAsAny[OptimizerConfig]
    credit: CreditConfig = CreditConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    sampling: Sampling = Sampling()
    improve: ImproveConfig = ImproveConfig()
    prompts: tuple[str, ...] = setting(
        (), "Prompts that the trained model continues at the end of the run.", flat="prompts"
    )
    output_dir: LocalPath | None = setting(None, "The run directory; by default runs/RECIPE.", flat="output-dir")
    resume: bool = setting(
        True, "Go on with the run that is in the run directory; --no-resume sets it aside.", flat="resume"
    )
    init_from: LocalPath | None = setting(
        None,
        "A run directory or safetensors file: its tensors that fit by name and shape are the initial weights.",
        flat="init-from",
    )
    inactive_flags: tuple[str, ...] = setting((), "Flags that were given and have nothing behind them yet.")

    @model_validator(mode="after")
    def _credit_has_blocks(self) -> Self:
        if self.credit.enabled and self.optimizer.name != "c3o":
            raise ValueError(
                f"c3o credit is enabled but optimizer is not 'c3o' (it is {self.optimizer.name!r}); "
                "set --optimizer c3o, or --no-c3o-credit-enabled"
            )
        return self


PRESET, WHOLE = "preset", "main"
"""The flag, and the preset of the recipe that the others are made from."""

SECTIONS = {
    name
    for name, info in Recipe.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
}
"""The fields of a recipe that hold settings of their own."""


def names() -> list[str]:
    """The recipes that ship with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a shipped recipe, or of a path to one.

    Raises:
        ValueError: neither; the message names the nearest recipe.
    """
    shipped = SHIPPED / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    raise ValueError(
        f"no recipe {name!r}{nearest(name, names())}; shipped: {', '.join(names())}; or give the path of a YAML file"
    )


def presets(name: str) -> dict[str, str]:
    """Preset -> the shipped recipe with its sizes: of `sigma` and all that extends it, `main` is `sigma` and `tiny` is
    `sigma-tiny`. Empty where there are none."""
    for path in _lineage(find(name)):
        sizes = {other.removeprefix(f"{path.stem}-"): other for other in names() if other.startswith(f"{path.stem}-")}
        if sizes and path.parent == SHIPPED:
            return {WHOLE: path.stem, **sizes}
    return {}


def load(name: str, flags: Sequence[Flag] = ()) -> Recipe:
    """The recipe `name` (shipped name or path) with `flags` applied in order, later ones winning.

    Raises:
        ValueError: unknown or mistyped keys, values out of range; each is named with where it came from.
    """
    flags, wishes = interface.split([part for flag in flags for part in _parts(flag, name)])
    tree = reduce(_merge, reversed(_lineage(find(name)).values()))
    for flag in flags:  # the plug-ins first: which keys a section has depends on them
        for section, plug in PLUGS.items():
            if flag.name in (f"{section}.{plug.key}", plug.flat):
                tree = _merge(tree, {section: {plug.key: _value(flag, None)}})
    shape = _shape(tree)
    keys = dict(_keys(shape))
    for flag in flags:
        if flag.optional and flag.name not in keys:
            continue
        if owner := _owner_elsewhere(flag, keys):
            if flag.origin in (FROM_PYTHON, COMMAND_LINE):
                raise ValueError(
                    f"--{flag.name} on {flag.origin} is a setting of {owner}, which this run does not have"
                )
            wishes[flag.name] = f"--{flag.name}"
            continue
        key, value = _resolve(flag, keys)
        branch = tree
        *parents, leaf = key.split(".")
        for part in parents:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise ValueError(f"recipe {name}: {part} must be a section of keys, not {branch!r}")
        branch[leaf] = value
    recipe = _validate(shape, tree, f"recipe {name}")
    return recipe.model_copy(update={"inactive_flags": interface.inactive(recipe.inactive_flags, wishes)})


def save(recipe: Recipe, path: Path) -> None:
    """Writes the resolved recipe: every key with its value, so that `load(path)` gives an equal one."""
    with replacing(path) as stream:
        yaml.safe_dump(recipe.model_dump(mode="json"), stream, sort_keys=False, allow_unicode=True)


def settings(recipe: Recipe) -> Iterator[tuple[str, FieldInfo, Any]]:
    """(dotted key, field, value) of every setting, for help and for comparing two recipes."""
    for key, info in _keys(type(recipe)):
        value: Any = recipe
        for part in key.split("."):
            value = getattr(value, part)
        yield key, info, value


def _parts(flag: Flag, name: str) -> list[Flag]:
    """What a flag of the recipe `name` stands for: itself, or the settings of a preset."""
    if flag.name != PRESET:
        return [flag]
    known = presets(name)
    wish = flag.value if isinstance(flag.value, str) else " ".join(flag.value or [])
    if wish not in known:
        there = f"there is: {', '.join(known)}" if known else f"{name} has none"
        raise ValueError(f"no preset {wish!r} on {flag.origin}{nearest(wish, list(known))}; {there}")
    sizes = {preset: {key: value for key, _, value in settings(load(other))} for preset, other in known.items()}
    own = sizes[wish]
    differs = [key for key in own if any(other.get(key) != own[key] for other in sizes.values())]
    return [Flag(key, own[key], FROM_PYTHON, optional=True) for key in differs if key != "description"]


def _lineage(path: Path) -> dict[Path, dict[str, Any]]:
    """The recipe and those it extends, each with the keys of its own, the nearest first."""
    found: dict[Path, dict[str, Any]] = {}
    while path not in found:
        found[path] = tree = _own_keys(path)
        base = tree.pop("extends", None)
        if not base:
            return found
        path = find(str(base))
    raise ValueError(f"recipe {path} extends itself, by way of {' -> '.join(map(str, found))}")


def _own_keys(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the recipe {path}: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"recipe {path} must be a YAML mapping of sections, not {type(tree).__name__}")
    empty = [key for key, value in tree.items() if value is None and key in SECTIONS]
    for key in empty:  # YAML reads a section without keys as null
        del tree[key]
    return tree


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` upon `base`, section by section; one that names another plug-in keeps only the keys that one knows."""
    merged = dict(base)
    for key, value in over.items():
        old = base.get(key)
        if not (isinstance(value, dict) and isinstance(old, dict)):
            merged[key] = value
            continue
        plug = PLUGS.get(key)
        if plug and value.get(plug.key, old.get(plug.key)) != old.get(plug.key):
            known = plugins.find(plug.room, value[plug.key]).Config.model_fields
            old = {k: v for k, v in old.items() if k in known}
        merged[key] = _merge(old, value)
    return merged


def _shape(tree: dict[str, Any]) -> type[Recipe]:
    """Recipe with the plugged sections typed as the Configs that `tree` names, so that errors carry whole keys."""
    fields: dict[str, Any] = {}
    for section, plug in PLUGS.items():
        part = tree.get(section)
        if isinstance(part, dict) and plug.key in part:
            fields[section] = (plugins.find(plug.room, str(part[plug.key])).Config, ...)
        elif plug.otherwise:
            fields[section] = (plug.otherwise, plug.otherwise())
        else:
            raise ValueError(f"the recipe has no {section}.{plug.key}; there is: {', '.join(plugins.names(plug.room))}")
    return create_model("Recipe", __base__=Recipe, **fields)


def _keys(shape: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in shape.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _keys(info.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def _owner_elsewhere(flag: Flag, keys: Mapping[str, FieldInfo]) -> str:
    """`optimizer muon or teon` for a flat flag that only other plug-ins than the run's have; else an empty string. In a
    file of flags, which serves several optimizers, such a flag waits for its own."""
    names = {flag.name, flag.name.removeprefix("no-")}
    if not names.isdisjoint(keys) or not names.isdisjoint(filter(None, map(flat_name, keys.values()))):
        return ""
    for section, plug in PLUGS.items():
        configs = {other: plugins.find(plug.room, other).Config for other in plugins.names(plug.room)}
        owners = [
            other
            for other, config in configs.items()
            if not names.isdisjoint(filter(None, map(flat_name, config.model_fields.values())))
        ]
        if owners:
            return f"{section} {' or '.join(owners)}"
    return ""


def _resolve(flag: Flag, keys: Mapping[str, FieldInfo]) -> tuple[str, Any]:
    """The dotted key that a flag means, and its value."""
    flat = {flat_name(info): key for key, info in keys.items() if flat_name(info)}
    for name, negated in ((flag.name, False), (flag.name.removeprefix("no-"), True)):
        key = name if name in keys else flat.get(name, "")
        parent = name.rpartition(".")[0]
        if parent in keys and get_origin(keys[parent].annotation) is dict:
            return name, _value(flag, None)
        if not key or (negated and (keys[key].annotation is not bool or flag.value)):
            continue
        return key, False if negated else _value(flag, keys[key])
    known = [*keys, *(name for name in flat if name), *interface.table().names(), PRESET]
    raise ValueError(f"unknown setting --{flag.name} on {flag.origin}{nearest(flag.name, known)}")


def _value(flag: Flag, info: FieldInfo | None) -> Any:
    """The flag's words as the field wants them; pydantic turns text into numbers."""
    if flag.origin == FROM_PYTHON:
        return flag.value
    annotation = info.annotation if info else str
    if flag.value is None:
        if annotation is not bool:
            raise ValueError(f"--{flag.name} on {flag.origin} needs a value")
        return True
    if get_origin(annotation) is tuple and not flag.value[0].startswith("["):
        return flag.value
    if len(flag.value) > 1:
        raise ValueError(
            f"--{flag.name} on {flag.origin} takes one value, not {len(flag.value)}: {' '.join(flag.value)}"
        )
    word = flag.value[0]
    if get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation) and word in ("none", "null"):
        return None
    if get_origin(annotation) is Literal:  # of which pydantic takes no number for its text
        return next((choice for choice in get_args(annotation) if str(choice) == word), word)
    return yaml.safe_load(word) if word.startswith(("[", "{")) and annotation is not str else word


def _validate(shape: type[Recipe], tree: dict[str, Any], source: str) -> Recipe:
    try:
        return shape.model_validate(tree)
    except ValidationError as error:
        raise ValueError("\n".join(f"{source}: {line}" for line in _explain(error, shape))) from error


def _explain(error: ValidationError, shape: type[Recipe]) -> Iterator[str]:
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            parent, _, leaf = key.rpartition(".")
            siblings = [k.removeprefix(f"{parent}.").split(".")[0] for k, _ in _keys(shape) if k.startswith(parent)]
            yield f"unknown key {key}{nearest(leaf, siblings)}"
        elif problem["type"] == "missing":
            yield f"{key} is missing"
        else:
            given = "" if isinstance(problem["input"], dict | BaseModel) else f" (got {problem['input']!r})"
            where = f"{key}: " if key else ""
            yield f"{where}{problem['msg'].removeprefix('Value error, ')}{given}"
