"""Settings as frozen records: what a recipe says, checked once, here.

A recipe is one TOML file in ``snnconv/recipes`` (or a path): data set, network, quantization,
preprocessing, augmentation, training and the published number with its source. ``base`` names a
recipe whose entries it takes over.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from snnconv.errors import ConfigError, nearest
from snnconv.grids import MAX_LEVELS, k_b_grid


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the records: immutable, named arguments only, unknown entries refused."""


Weights = Literal["float", "ternary", "binary", "scaled", "sign-pair"]
Activations = Literal["relu", "k/B", "ternary", "binary", "three-level", "sttn"]
Ends = Literal["float", "quantized"]

SCHEMES: dict[str, tuple[Weights | None, Activations, Ends | None]] = {
    "fp32": ("float", "relu", "float"),
    "relu": (None, "relu", None),
    "twta": ("ternary", "ternary", "float"),
    "twba": ("ternary", "binary", "float"),
    "bwba": ("binary", "binary", "float"),
    "twba3": ("ternary", "three-level", "float"),
    "bwba3": ("binary", "three-level", "float"),
    "sttn": ("sign-pair", "sttn", "float"),
}
"""Quantizations by name: hidden weights, activations, first and last layer. None leaves it to the network."""

LEVELS: dict[Activations, int] = {"relu": 0, "ternary": 2, "binary": 1, "three-level": 2, "sttn": 2}
"""L of the hidden activations that have no k and B; 0 where they are float."""

TERMS = (1, 2, 4)
"""How many ternary weights residual expansion may add up."""

WEIGHT_BITS = range(2, 9)
"""Bits that an inserted weight quantizer may have; with 2 the weights are ternary."""


OWN = "own"
"""Quantization of a network of the user's own, whose quantizers are in its code."""


@dataclass(frozen=True)
class Quantization:
    """What a network computes with. Its name is one of

    * ``fp32``: the full-precision twin of any network;
    * ``k<k>B<B>``, such as ``k1B2``: the network's own weights and (k, B) activations;
    * ``relu``: the network's own weights and float ReLU activations;
    * either of these two followed by ``-t1``, ``-t2`` or ``-t4`` (scaled ternary weights, residual expansion by so
      many terms) or by ``-float`` (float weights), and by ``-fflf`` or ``-fqlq`` (first and last layer float or
      quantized);
    * ``twta``, ``twba``, ``bwba``, ``sttn``: the published systems of these names; ``twba3`` and ``bwba3`` with the
      three-level activation that the released code ships;
    * ``own``: that of a network of the user's own, which says by itself how it is quantized;
    * any with float activations followed by ``-L<levels>``, such as ``fp32-L8`` or ``own-L8``: with quantizers of
      so many levels in the place of its ReLUs, as `snnconv quantize` puts them; ``-w<bits>`` behind that says how many
      bits the hidden weights have;
    * ``sttn-k<k>B<B>``: ``sttn`` with the stream between its blocks quantized to multiples of 2^-k in -B..B, which
      makes it convertible.

    Attributes:
        name: As above.
        k: Fractional bits of the activations, of the stream in ``sttn-k<k>B<B>``; None elsewhere.
        B: Upper bound of the same.
        tie: Added before (k, B) activations are rounded (1e-5 in the source's own checkpoints).
        weights: Quantizer of the hidden weights; None is the network's own.
        activations: Kind of the hidden activations.
        terms: t_ex of residual expansion, where the weights are scaled ternary ones.
        ends: What the first and the last layer keep; None is the network's own choice.
        inserted: L of the quantizers in the place of ReLUs; 0 where there are none.
        weight_bits: Bits of the hidden weights beside them; None leaves these as they are.
    """

    name: str
    k: int | None = None
    B: int | None = None
    tie: float = 0.0
    weights: Weights | None = None
    activations: Activations = "relu"
    terms: int = 1
    ends: Ends | None = None
    inserted: int = 0
    weight_bits: int | None = None

    @property
    def before(self) -> str:
        """Name of the quantization that quantizers were inserted into; its own where none were."""
        return self.name.rsplit("-L", 1)[0] if self.inserted else self.name

    @property
    def quantizes_stream(self) -> bool:
        """Whether the values between residual blocks are quantized by themselves."""
        return self.activations == "sttn" and self.k is not None

    @property
    def levels(self) -> int:
        """L of the hidden activations; 0 where they are float."""
        if self.inserted:
            return self.inserted
        if self.activations == "k/B":
            assert self.k is not None
            assert self.B is not None
            levels: int = 2**self.k * self.B
            return levels
        return LEVELS[self.activations]

    def with_bits(self, k: int | None = None, B: int | None = None) -> Quantization:
        """The same weights, ends and terms with (k, B) activations (of the stream in ``sttn``); None keeps what is.

        Raises:
            ConfigError: only one of the two where there are none yet, or a scheme with activations of its own.
        """
        k, B = (self.k if k is None else k), (self.B if B is None else B)
        if self.inserted or self.activations not in ("relu", "k/B", "sttn"):
            raise ConfigError(f"quantization {self.name} has activations of its own: k and B do not apply to it")
        if k is None or B is None:
            raise ConfigError(f"quantization {self.name} has no k and B yet: give both --k and --B")
        if self.activations == "sttn":
            return Quantization.parse(f"sttn-k{k}B{B}", self.tie)
        _, *modifiers = self.name.split("-")
        return Quantization.parse("-".join([f"k{k}B{B}", *modifiers]), self.tie)

    @classmethod
    def parse(cls, name: str, tie: float = 0.0) -> Quantization:
        """Read a quantization's name.

        Raises:
            ConfigError: not one of the names, or k, B or the number of terms outside what is allowed.
        """
        if match := re.fullmatch(r"(.+)-L(\d+)(?:-w(\d+))?", name):
            return _with_inserted(cls.parse(match[1], tie), int(match[2]), None if match[3] is None else int(match[3]))
        if name == OWN:
            return cls(name, tie=tie)
        if name in SCHEMES:
            weights, activations, ends = SCHEMES[name]
            return cls(name, tie=tie, weights=weights, activations=activations, ends=ends)
        if match := re.fullmatch(r"sttn-k(-?\d+)B(-?\d+)", name):
            k, B = int(match[1]), int(match[2])
            k_b_grid(k, B)
            if 2 ** (k + 1) * B > MAX_LEVELS:
                raise ConfigError(f"{name} has {2 ** (k + 1) * B} levels; at most {MAX_LEVELS}: take a smaller k or B")
            return cls(name, k, B, tie, "sign-pair", "sttn", ends="float")
        match = re.fullmatch(r"(?:relu|k(-?\d+)B(-?\d+))(?:-(?:t(\d+)|float))?(?:-(fflf|fqlq))?", name)
        if not match:
            raise ConfigError(
                f"unknown quantization {name!r}: expected {', '.join(SCHEMES)}, or k<bits>B<bound>, such as k1B2"
            )
        own: Weights | None = "scaled" if match[3] else "float" if "-float" in name else None
        terms = int(match[3] or 1)
        if terms not in TERMS:
            raise ConfigError(f"quantization {name}: t (= {terms}) must be 1, 2 or 4")
        both: dict[str | None, Ends | None] = {"fflf": "float", "fqlq": "quantized", None: None}
        if match[1] is None:
            return cls(name, None, None, tie, own, "relu", terms, both[match[4]])
        k, B = int(match[1]), int(match[2])
        k_b_grid(k, B, tie)
        return cls(name, k, B, tie, own, "k/B", terms, both[match[4]])


def _with_inserted(base: Quantization, levels: int, weight_bits: int | None) -> Quantization:
    """The quantization of a network whose ReLUs became quantizers."""
    name = inserted_name(base.name, levels, weight_bits)
    if base.levels or base.inserted:
        raise ConfigError(f"quantization {name}: {base.name} has quantized activations of its own")
    if not 1 <= levels <= MAX_LEVELS:
        raise ConfigError(f"quantization {name}: levels (= {levels}) must lie in 1..{MAX_LEVELS}")
    if weight_bits is not None and weight_bits not in WEIGHT_BITS:
        raise ConfigError(
            f"quantization {name}: weight bits (= {weight_bits}) must lie in {WEIGHT_BITS[0]}..{WEIGHT_BITS[-1]}; 2 is "
            "ternary"
        )
    return replace(base, name=name, inserted=levels, weight_bits=weight_bits)


def inserted_name(base: str, levels: int, weight_bits: int | None = None) -> str:
    """Name of a quantization with quantizers in the place of ReLUs."""
    return f"{base}-L{levels}" + ("" if weight_bits is None else f"-w{weight_bits}")


class Preprocessing(Settings, frozen=True):
    """From uint8 pixels to the network's input; stored with every converted network.

    Attributes:
        crop: Side of the central crop [pixels]; None leaves the image whole.
        standardise: Subtract each image's mean and divide by its standard deviation, the latter at
            least 1/sqrt(number of values).
        divisor: Pixels are divided by this where they are not standardised.
        resize: Shorter side that an image file is brought to before the crop [pixels]; None leaves it as it is.
        mean: Subtracted from the divided pixels, one a channel.
        sd: What that is divided by, one a channel: (x / divisor - mean) / sd.
    """

    crop: int | None = None
    standardise: bool = False
    divisor: float = 255.0
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    sd: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop < 1:
            raise ConfigError(f"preprocessing: crop (= {self.crop}) must be at least 1 pixel")
        if not 0 < self.divisor < math.inf:
            raise ConfigError(f"preprocessing: divisor (= {self.divisor}) must be a finite number above 0")
        if self.resize is not None and (self.crop is None or self.resize < self.crop):
            raise ConfigError(
                f"preprocessing: resize (= {self.resize}) needs a crop of at most as many pixels, not {self.crop}"
            )
        if self.mean is None and self.sd is None:
            return
        if self.mean is None or self.sd is None or len(self.mean) != len(self.sd) or not self.mean:
            raise ConfigError("preprocessing: mean and sd go together, a number a channel each")
        if not all(math.isfinite(value) for value in self.mean):
            raise ConfigError(f"preprocessing: mean (= {list(self.mean)}) must be finite numbers")
        if not all(0 < value < math.inf for value in self.sd):
            raise ConfigError(f"preprocessing: sd (= {list(self.sd)}) must be finite numbers above 0")
        if self.standardise:
            raise ConfigError("preprocessing: standardise takes each image's own mean and sd; leave out the fixed ones")


class Augmentation(Settings, frozen=True):
    """Random changes of a training image, before the preprocessing.

    Attributes:
        rotation: Largest angle of a rotation about the centre, drawn uniformly from -r .. r [degrees].
        shear: Largest slant, drawn likewise [degrees].
        scale: Range of the factor that width and height are stretched by, each by its own.
        pad: Zero border put around the image before the random crop [pixels].
        crop: Side of the random crop, one a sample; None takes none.
        flip: Mirror left and right with probability 1/2.
        brightness: Largest shift added to all pixels, drawn uniformly from -b .. b [pixel values].
        contrast: Range of the factor on the distance from each channel's mean.
        area: Range of the share of an image file that a window of random place and shape (3:4 .. 4:3) covers; it is
            brought to ``crop`` x ``crop``. None takes a crop of the file as ``preprocessing.resize`` leaves it.
    """

    rotation: float = 0.0
    shear: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    pad: int = 0
    crop: int | None = None
    flip: bool = False
    brightness: float = 0.0
    contrast: tuple[float, float] | None = None
    area: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.pad < 0 or self.brightness < 0 or (self.crop is not None and self.crop < 1):
            raise ConfigError("augmentation: pad and brightness must be 0 or more, crop at least 1")
        if self.contrast is not None and not 0 < self.contrast[0] <= self.contrast[1]:
            raise ConfigError(
                f"augmentation: contrast (= {list(self.contrast)}) must be [low, high] with 0 < low <= high"
            )
        if not 0 <= self.rotation <= 180 or not 0 <= self.shear < 90:
            raise ConfigError(
                f"augmentation: rotation (= {self.rotation:g}) must lie in [0, 180] and shear (= {self.shear:g}) in "
                "[0, 90) degrees"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"augmentation: scale (= {list(self.scale)}) must be [low, high] with 0 < low <= high")
        if self.area is not None and not 0 < self.area[0] <= self.area[1] <= 1:
            raise ConfigError(f"augmentation: area (= {list(self.area)}) must be [low, high] with 0 < low <= high <= 1")
        if self.area is not None and (self.crop is None or self.pad):
            raise ConfigError("augmentation: area needs a crop to bring its window to, and no pad")


class Training(Settings, frozen=True):
    """How a recipe's network is trained.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Images a step.
        optimiser: ``adam`` or ``sgd`` (with Nesterov momentum).
        learning_rate: Rate at the start, or the peak of ``one-cycle``.
        schedule: ``constant``; ``one-cycle`` (Smith 2018); ``steps`` multiplies the rate by
            ``factor`` at each milestone; ``cosine`` lets it fall to 0 by half a cosine.
        milestones: Epochs at which ``steps`` acts, ascending.
        factor: What ``steps`` multiplies by: one number, or one a milestone.
        momentum: Nesterov momentum of ``sgd``.
        weight_decay: L2 penalty.
        label_smoothing: Share of the target spread evenly over the classes.
        plain_share: Share of the epochs, the last ones, that show the images without augmentation, as the test does
            (He et al. 2019, arXiv:1909.09148).
        validation: Images held out of the training split to pick the best epoch; 0 trains on all and keeps the last.
        precision: ``auto`` takes bf16 where the device computes it natively, else fp32.
        distillation: Share of the loss that is the cross-entropy against a teacher's softmax, 0 .. 1.
        temperature: What the logits of both are divided by in that share.
        accumulate: Parts of a batch that go through the network one after the other before the step, to need less
            memory; batch statistics are then those of the parts.
    """

    epochs: int = 10
    batch_size: int = 128
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "one-cycle", "steps", "cosine"] = "constant"
    milestones: tuple[int, ...] = ()
    factor: float | tuple[float, ...] = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    plain_share: float = 0.0
    validation: int = 5000
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    distillation: float = 0.0
    temperature: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("validation", 0), ("accumulate", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"training: {name} (= {getattr(self, name)}) must be at least {least}")
        if not 0 < self.learning_rate <= 100:
            raise ConfigError(f"training: learning_rate (= {self.learning_rate}) must lie above 0 and up to 100")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"training: label_smoothing (= {self.label_smoothing}) must lie in [0, 1)")
        if not 0 <= self.plain_share <= 1:
            raise ConfigError(f"training: plain_share (= {self.plain_share}) must lie in [0, 1]")
        if self.weight_decay < 0:
            raise ConfigError(f"training: weight_decay (= {self.weight_decay}) must be 0 or more")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"training: milestones (= {list(self.milestones)}) must rise")
        factors = self.factor if isinstance(self.factor, tuple) else (self.factor,)
        if isinstance(self.factor, tuple) and len(factors) != len(self.milestones):
            raise ConfigError(
                f"training: factor has {len(factors)} numbers for {len(self.milestones)} milestones: give one, "
                "or one a milestone"
            )
        if not all(factor > 0 for factor in factors):
            raise ConfigError(f"training: factor (= {self.factor}) must be above 0")
        if not 0 <= self.distillation <= 1:
            raise ConfigError(f"training: distillation (= {self.distillation}) must lie in [0, 1]")
        if not self.temperature > 0:
            raise ConfigError(f"training: temperature (= {self.temperature}) must be above 0")


Calibrations = Literal["max", "percentile", "mse", "balance"]
CALIBRATIONS: tuple[Calibrations, ...] = get_args(Calibrations)
"""Ways to find the ranges of float activations, see ``quantization.calibration``."""


class Calibration(Settings, frozen=True):
    """How the ranges of a float network's activations are found on images.

    Attributes:
        method: One of ``CALIBRATIONS``.
        percentile: Of ``percentile``, above 0 and up to 100.
        iterations: Batches that ``balance`` looks at; the images start anew where they end.
        per_channel: Whether each channel's own range is folded into the weights around it first, see
            ``quantization.channels``.
    """

    method: Calibrations = "mse"
    percentile: float = 99.9
    iterations: int = 100
    per_channel: bool = False

    def __post_init__(self) -> None:
        if self.method not in CALIBRATIONS:
            raise ConfigError(f"unknown calibration {self.method!r}: {', '.join(CALIBRATIONS)} are known")
        if not 0 < self.percentile <= 100:
            raise ConfigError(f"calibration: percentile (= {self.percentile:g}) must lie above 0 and up to 100")
        if self.iterations < 1:
            raise ConfigError(f"calibration: iterations (= {self.iterations}) must be at least 1")


class Published(Settings, frozen=True, omit_defaults=True):
    """What a paper says of a network, and where it stands.

    Attributes:
        accuracy: Top-1 [%].
        source: The paper.
        top5: Top-5 [%].
        spikes: Spikes an image of all layers that fire.
        sops: Synaptic operations an image by the convention ``zou2021``.
        noise: Top-1 [%] by the share of the encoder's spikes that are deleted.
    """

    accuracy: float
    source: str
    top5: float | None = None
    spikes: int | None = None
    sops: int | None = None
    noise: dict[float, float] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("spikes", self.spikes), ("sops", self.sops)):
            if value is not None and not value > 0:
                raise ConfigError(f"published: {name} (= {value}) must be above 0")
        for ratio, accuracy in self.noise.items():
            if not 0 < ratio <= 1 or not 0 <= accuracy <= 100:
                raise ConfigError(
                    f"published: noise (= {{{ratio}: {accuracy}}}) gives an accuracy in 0..100 % for a ratio above 0 "
                    "and up to 1"
                )


class Recipe(Settings, frozen=True):
    """Everything that makes a trained network, but for the seed.

    ``tie`` is the rounding constant of the activations, see ``Quantization``. ``classes`` is the number of classes
    where the data set does not fix it (a folder of one's own images); None is the data set's own.
    """

    name: str
    network: str
    dataset: str
    quantization: str
    tie: float = 0.0
    description: str = ""
    published: Published | None = None
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    training: Training = Training()
    classes: int | None = None

    def __post_init__(self) -> None:
        Quantization.parse(self.quantization, self.tie)
        if self.classes is not None and self.classes < 2:
            raise ConfigError(f"recipe {self.name}: classes (= {self.classes}) must be at least 2")
        check_name("recipe", self.name)
        if self.training.plain_share and self.augmentation.area is not None:
            raise ConfigError(
                f"recipe {self.name}: training.plain_share (= {self.training.plain_share:g}) is for images in memory, "
                "augmentation.area for image files: leave one out"
            )
        if self.augmentation.crop is not None and self.preprocessing.crop != self.augmentation.crop:
            raise ConfigError(
                f"recipe {self.name}: the random crop ({self.augmentation.crop}) and the central crop "
                f"({self.preprocessing.crop}) must have the same side"
            )


def check_name(what: str, name: str) -> None:
    """Raise ConfigError where a name, of a recipe or a run, could not be that of a folder everywhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(
            f"{what} name {name!r}: letters, digits, dots, dashes and underscores are allowed, the first a letter or a "
            "digit"
        )


def to_mapping(settings: Settings) -> dict[str, Any]:
    """Plain values of a record, for TOML and JSON; entries that are None are left out."""
    return _without_none(msgspec.to_builtins(settings, str_keys=True))


def recipe_from_mapping(values: Mapping[str, Any], where: str) -> Recipe:
    """Build a recipe from plain values.

    Raises:
        ConfigError: an unknown entry, a wrong type, or a value outside what is allowed.
    """
    try:
        return msgspec.convert(values, Recipe, str_keys=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error


def without_remarks(recipe: Recipe) -> Recipe:
    """The recipe without what is only said about it: two that are equal so train the same networks."""
    return msgspec.structs.replace(recipe, description="", published=None)


def published_for(recipe: Recipe) -> Published | None:
    """What is published of a recipe's network.

    A recipe that comes with the package may have learned of more since a run wrote it down.
    """
    if recipe.name in recipe_names():
        known = load_recipe(recipe.name)
        if (known.network, known.dataset, known.quantization) == (recipe.network, recipe.dataset, recipe.quantization):
            return known.published
    return recipe.published


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        file.name.removesuffix(".toml") for file in files("snnconv.recipes").iterdir() if file.name.endswith(".toml")
    )


def load_recipe(name: str) -> Recipe:
    """Read a recipe by name, or from the path of a TOML file.

    Raises:
        ConfigError: no such recipe, or one with a wrong entry.
    """
    values = {"name": Path(name).stem} | _recipe_values(name, seen=())
    return recipe_from_mapping(values, f"recipe {name}")


def change_recipe(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Recipe with dotted entries replaced, such as ``{"training.epochs": 3}``; None changes nothing."""
    values = to_mapping(recipe)
    for path, value in changes.items():
        if value is None:
            continue
        *outer, last = path.split(".")
        table = values
        for key in outer:
            table = table.setdefault(key, {})
        table[last] = value
    return recipe_from_mapping(values, f"recipe {recipe.name}")


def _recipe_values(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise ConfigError(f"recipe {name}: its base leads back to itself")
    values: dict[str, Any]
    try:
        if name.endswith(".toml"):
            values = tomllib.loads(Path(name).read_text(encoding="utf-8"))
        elif name in recipe_names():
            values = tomllib.loads((files("snnconv.recipes") / f"{name}.toml").read_text(encoding="utf-8"))
        else:
            raise ConfigError(
                f"unknown recipe {name!r}{nearest(name, recipe_names())}: `snnconv recipes` lists them, and a path "
                "ending in .toml is read as one"
            )
    except OSError as error:
        raise ConfigError(f"recipe {name} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {name} is not valid TOML: {error}") from error
    base = values.pop("base", None)
    if base is None:
        return values
    inherited = _recipe_values(base, (*seen, name))
    if "published" in values:
        inherited.pop("published", None)  # numbers of two recipes do not mix
    return _merged(inherited, values | {"name": Path(name).stem})


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in changes.items():
        both[key] = _merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }
