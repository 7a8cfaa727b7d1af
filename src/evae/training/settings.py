"""The settings of ``evae train``: type, default, help and check of each; ConfigError where one cannot work."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from evae import checks
from evae.data import ImageOptions
from evae.errors import ConfigError
from evae.fitting.settings import Choice
from evae.training.loggers import LoggerName

Decay = Literal["none", "cosine"]
OnNonfinite = Literal["stop", "skip"]
Accelerator = Literal["auto", "cpu", "cuda", "mps"]
Strategy = Literal["auto", "ddp", "fsdp"]
Precision = Literal["32-true", "tf32", "bf16-mixed", "64-true"]
Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Recipe:
    """Optimisation: how the model is trained.

    Args:
        epochs: number of epochs (the last incomplete batch of each epoch is dropped).
        batch_size: images per optimizer step, over all devices; also eq. (10)'s M of an EVAE, unless --model.n says
            otherwise.
        learning_rate: Adam learning rate.
        seed: seed of the weights, the order of the images and the posterior samples.
        validation: fraction of the training images to hold back; they choose the best epoch and end patience, instead
            of the hold-out images.
        warmup: epochs of linear learning-rate warm-up, may be fractional.
        decay: cosine decays the learning rate to 0 at the end of the last epoch.
        divergence_warmup: epochs of linear KL (or penalty) warm-up from weight 0, may be fractional.
        gradient_clip: clip the global gradient norm to this value.
        ema: decay of an exponential moving average of the weights, e.g. 0.999, after a warm-up: it is at most
            (1 + t)/(10 + t) after t steps; the averaged weights are the ones evaluated and saved.
        patience: early stopping after this many epochs without a lower validation loss (warm-up epochs excluded).
        on_nonfinite: stop when a loss or gradient is not finite, saying where, or skip the step and count it.
    """

    epochs: int = 50
    batch_size: int = 100
    learning_rate: float = 3e-4
    seed: int = 0
    validation: float = 0.0
    warmup: float = 0.0
    decay: Decay = "none"
    divergence_warmup: float = 0.0
    gradient_clip: float | None = None
    ema: float | None = None
    patience: int | None = None
    on_nonfinite: OnNonfinite = "stop"

    def __post_init__(self) -> None:
        checks.whole_number("epochs", self.epochs)
        checks.whole_number("batch_size", self.batch_size)
        checks.positive("learning_rate", self.learning_rate, 1e3)
        checks.seed(self.seed)
        checks.not_negative("warmup", self.warmup)
        checks.not_negative("divergence_warmup", self.divergence_warmup)
        checks.one_of("decay", self.decay, get_args(Decay))
        checks.one_of("on_nonfinite", self.on_nonfinite, get_args(OnNonfinite))
        if self.validation:
            checks.fraction("validation", self.validation)
        if self.gradient_clip is not None:
            checks.positive("gradient_clip", self.gradient_clip)
        if self.ema is not None:
            checks.fraction("ema", self.ema)
        if self.patience is not None:
            checks.whole_number("patience", self.patience)
        if self.decay == "cosine" and self.warmup >= self.epochs:
            raise ConfigError(f"a warmup of {self.warmup:g} epochs leaves nothing of {self.epochs} to decay in")

    @property
    def settled_epoch(self) -> int:
        """The first epoch that begins after the warm-ups: losses before it are not compared."""
        return math.ceil(max(self.warmup, self.divergence_warmup))

    def learning_rate_at(self, epoch: float) -> float:
        """Rising linearly to ``learning_rate`` during the warm-up; then constant, or along a cosine to 0."""
        if epoch < self.warmup:
            return self.learning_rate * epoch / self.warmup
        if self.decay == "none":
            return self.learning_rate
        done = min(1.0, (epoch - self.warmup) / (self.epochs - self.warmup))
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def divergence_weight_at(self, epoch: float) -> float:
        """The factor on the divergence's weight: rising linearly to 1 during its warm-up."""
        return min(1.0, epoch / self.divergence_warmup) if self.divergence_warmup else 1.0

    def ema_at(self, steps: int) -> float:
        """The decay of the average of the weights after this many steps, rising to ``ema``.

        At first the average follows the weights closely, so that it forgets those of the first steps.
        """
        return min(self.ema or 0.0, (1 + steps) / (10 + steps))


@dataclass(frozen=True)
class RunOptions:
    """Run: an existing run, and when to stop.

    Args:
        resume: auto continues the run in --out from its last checkpoint, if there is one.
        overwrite: replace the run in --out.
        time_limit: minutes after the start of the command at which to save and stop, with exit code 75.
        fit_prior: after training, fit a prior of this kind to the codes, as evae fit-prior --kind.
    """

    resume: Literal["auto"] | None = None
    overwrite: bool = False
    time_limit: float | None = None
    fit_prior: Choice | None = None

    def __post_init__(self) -> None:
        if self.resume is not None:
            checks.one_of("resume", self.resume, ["auto"])
        if self.resume and self.overwrite:
            raise ConfigError("--resume and --overwrite contradict each other")
        if self.time_limit is not None:
            checks.positive("time_limit", self.time_limit)
        if self.fit_prior is not None:
            checks.one_of("fit_prior", self.fit_prior, get_args(Choice))


@dataclass(frozen=True)
class Compute:
    """Hardware: devices and arithmetic.

    Args:
        accelerator: cpu, cuda or mps; auto: a GPU where there is one.
        devices: number of GPUs (or of processes, on CPU) per node.
        num_nodes: number of nodes (experimental).
        strategy: ddp averages the gradients of all devices; auto: ddp where there are several. fsdp (experimental) also
            shards parameters, gradients and optimizer state, for models too large for one device.
        sync_batchnorm: with several GPUs, normalise by the statistics of the whole batch.
        precision: arithmetic of the networks; posteriors and losses are float32 at least. tf32 is for CUDA.
        compile: compile the model with torch.compile (auto: CUDA only, with CUDA graphs, experimental).
    """

    accelerator: Accelerator = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Strategy = "auto"
    sync_batchnorm: bool = False
    precision: Precision = "32-true"
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        checks.whole_number("devices", self.devices)
        checks.whole_number("num_nodes", self.num_nodes)
        checks.one_of("accelerator", self.accelerator, get_args(Accelerator))
        checks.one_of("precision", self.precision, get_args(Precision))
        checks.one_of("strategy", self.strategy, get_args(Strategy))
        checks.one_of("compile", self.compile, get_args(Compile))
        if self.strategy == "fsdp" and self.processes == 1:
            raise ConfigError("--strategy fsdp is for several devices; see --devices")
        if self.strategy == "fsdp" and self.precision == "64-true":
            raise ConfigError("--strategy fsdp is not for --precision 64-true")

    @property
    def processes(self) -> int:
        """Number of processes: one per device."""
        return self.devices * self.num_nodes


@dataclass(frozen=True)
class Logging:
    """Logging: where metrics go besides metrics.jsonl.

    Args:
        logger: also log to tensorboard (in the run folder), wandb, mlflow or trackio; each needs the extra of its name,
            e.g. evae[tensorboard].
        log_every: also log every N optimizer steps (metrics are always logged once per epoch).
    """

    logger: LoggerName | None = None
    log_every: int | None = None

    def __post_init__(self) -> None:
        if self.logger is not None:
            checks.one_of("logger", self.logger, get_args(LoggerName))
        if self.log_every is not None:
            checks.whole_number("log_every", self.log_every)


@dataclass(frozen=True)
class Settings:
    """All settings of ``evae train`` but for data, folder and model."""

    images: ImageOptions = ImageOptions()
    recipe: Recipe = Recipe()
    run: RunOptions = RunOptions()
    compute: Compute = Compute()
    logging: Logging = Logging()

    def flat(self) -> dict[str, Any]:
        """All settings of a run by name, without those that concern an existing one."""
        plain = {name: value for group in asdict(self).values() for name, value in group.items()}
        return {name: value for name, value in plain.items() if name not in ("resume", "overwrite")}
