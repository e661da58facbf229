"""The typed blocks of a training's option file. Networks, losses, optimisers and schedules stay open: BasicSR's
registries and torch define their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from basicsr_sassid.data.schema import MAX_SCALE
from basicsr_sassid.utils.blind_size import BlindSizesOption
from basicsr_sassid.utils.names import FileName
from basicsr_sassid.utils.schema import OptionBlock

MAX_ITER = 10**9  # of a run
_MAX_SEED = 2**32 - 1  # NumPy's


def _auto_or_count(value: object) -> object:
    if value != 'auto' and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f'expected auto or a number >= 0, got {value!r}')
    return value


class DistOptions(OptionBlock):
    """Block ``dist_params``: the processes of one run, started by torchrun or slurm.

    Attributes:
        backend: of GPUs; CPUs have gloo.
        timeout: seconds that the processes wait for each other, such as during a long validation.
        port: of the first process (slurm); default: 29500, or a free one.
    """

    backend: Literal['nccl', 'gloo'] = 'nccl'
    timeout: float = Field(default=7200, gt=0, le=10**7)
    port: int | None = Field(default=None, ge=1, le=65535)


class RunOptions(OptionBlock):
    """Keys at the top of the option file of a training or a test, beside its blocks.

    Attributes:
        name: name of the run, a single file name; its files are in ``experiments/<name>``, those of a test in
            ``results/<name>``.
        model_type: a model of this package (README: methods) or of BasicSR.
        scale: BasicSR's upscaling factor; 1 for denoising.
        img_range: value of white for networks and losses.
        num_gpu: ``auto``: one GPU if there is one; or a number.
        manual_seed: seed of the run; None: random.
        find_unused_parameters: of torch's DistributedDataParallel.
        dist_params: several processes.
    """

    name: FileName
    model_type: str
    scale: int = Field(default=1, ge=1, le=MAX_SCALE)
    img_range: float = Field(default=255, gt=0, le=65535)
    num_gpu: Annotated[int | Literal['auto'], BeforeValidator(_auto_or_count)] = 'auto'
    manual_seed: int | None = Field(default=None, ge=0, le=_MAX_SEED)
    find_unused_parameters: bool = False
    dist_params: DistOptions | None = None


class StageOptions(OptionBlock):
    """One stage, ``train.stages.<name>``.

    Attributes:
        iter: iterations; 0 with ``path.pretrain_network_*`` skips the stage.
        optim: any optimiser of torch.optim: ``{type: Adam, lr: 3e-4}``.
        scheduler: any of BasicSR's or torch's, stepped every iteration; the stage's length is filled in.
        loss: keys of the stage's loss that differ from its default.
    """

    iter: int = Field(ge=0, le=MAX_ITER)
    optim: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
    loss: dict[str, Any] | None = None


class TrainOptions(OptionBlock):
    """Block ``train`` of every method.

    Attributes:
        stages: the stages in the method's order.
        total_iter: sum of the stages' iterations; may be left out.
        ema_decay: decay of the moving average of the weights, say 0.999; 0: off.
        grad_clip: largest gradient norm; None: off.
        precision: of the forward passes: ``auto`` (bf16 where the hardware multiplies it natively), ``fp32``,
            ``bf16``, or ``fp16`` with a gradient scaler. Losses, optimiser and validation are in float32.
        compile: use torch.compile for the network in training.
        teacher_cache: ``off``: targets are predicted for every patch; ``lmdb``, ``memory``: once for each whole image,
            before the stage starts; ``auto``: ``lmdb`` where that is less work.
        teacher_ensemble: cached targets are means over the eight flips and turns.
    """

    stages: dict[str, StageOptions]
    total_iter: int | None = Field(default=None, ge=1, le=MAX_ITER)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    grad_clip: float | None = Field(default=None, gt=0)
    precision: Literal['auto', 'fp32', 'bf16', 'fp16'] = 'auto'
    compile: bool = False
    teacher_cache: Literal['auto', 'lmdb', 'memory', 'off'] = 'off'
    teacher_ensemble: bool = False

    @field_validator('teacher_cache', mode='before')
    @classmethod
    def _bare_off(cls, value: object) -> object:
        return 'off' if value is False else value  # YAML reads a bare off as false


class TextureOptions(OptionBlock):
    """Block ``train.texture``: the adaptive coefficient alpha (eq. 3).

    Attributes:
        window: side of the window of the local standard deviation in pixels, odd.
        lower, upper: thresholds of the local standard deviation, in 8-bit grey levels; lower <= upper.
    """

    window: int = Field(default=7, ge=1)
    lower: float = Field(default=1.0, ge=0)
    upper: float = Field(default=5.0, ge=0)

    @field_validator('window')
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f'expected an odd number >= 1, got {value}')
        return value

    @model_validator(mode='after')
    def _are_in_order(self) -> TextureOptions:
        if self.lower > self.upper:
            raise ValueError(f'expected lower <= upper, got lower {self.lower:g} and upper {self.upper:g}')
        return self


class ThreeStageTrainOptions(TrainOptions):
    """Block ``train`` of ThreeStageModel (SASSID).

    Attributes:
        texture: window and thresholds of alpha, which weights the two teachers.
        posterior: blend the BNN's prediction with the noisy image by their variances; ``auto``: where the trained BNN's
            error exceeds the noise, as it does where the noise is weak.
    """

    texture: TextureOptions = TextureOptions()
    posterior: Literal[True, False, 'auto'] = False

    @field_validator('posterior', mode='before')
    @classmethod
    def _is_no_number(cls, value: object) -> object:
        if type(value) is int:  # which Literal takes for true and false
            raise ValueError(f'expected one of true, false, auto, got {value}')
        return value

    @field_validator('texture', mode='before')
    @classmethod
    def _empty_texture(cls, value: object) -> object:
        return {} if value is None else value


class BlindSizesTrainOptions(ThreeStageTrainOptions):
    """Block ``train`` of BlindSizesModel.

    Attributes:
        teacher_blind_sizes: blind sizes of the BNN's predictions, from the smallest, each 0 (nothing is hidden), odd,
            or ``[height, width]`` where no patch is turned or a cache holds the predictions; ``auto``: of 0 and the odd
            ones up to the BNN's own, without those whose predictions keep the noise, the smallest, the middle and the
            largest.
        teacher_weights: of the sizes at each pixel: ``equal``; ``texture``: by SASSID's alpha, see block ``texture``;
            ``risk``: the least estimated error among the pixels of similar local standard deviation.
        teacher_draw: ``all``: the loss is a mean over all sizes; ``one``: one size for each patch, drawn at random,
            with equal weights; ``auto``: ``one`` where there is no teacher cache and the weights are equal.
        recharge: replace one target of each pixel, drawn at random, by the noisy pixel (APR-RD).
    """

    teacher_blind_sizes: BlindSizesOption = 'auto'
    teacher_weights: Literal['equal', 'texture', 'risk'] = 'equal'
    teacher_draw: Literal['auto', 'all', 'one'] = 'auto'
    recharge: bool = False

    @property
    def is_measured(self) -> bool:
        """Whether the sizes or their weights follow from the noise of the training images."""
        return self.teacher_blind_sizes == 'auto' or self.teacher_weights == 'risk'

    @model_validator(mode='after')
    def _one_has_equal_weights(self) -> BlindSizesTrainOptions:
        if self.teacher_draw == 'one' and self.teacher_weights != 'equal':
            raise ValueError(
                f'teacher_draw: one needs teacher_weights: equal, got {self.teacher_weights}. Set teacher_draw: all'
            )
        return self


class ATBSNTrainOptions(BlindSizesTrainOptions):
    """Block ``train`` of ATBSNModel: the defaults are the paper's.

    Attributes:
        teacher_blind_sizes, teacher_draw: see BlindSizesModel.
    """

    teacher_blind_sizes: BlindSizesOption = [0, 1, 3, 5, 7, 9, 11]
    teacher_draw: Literal['auto', 'all', 'one'] = 'all'


class SubsampledTrainOptions(TrainOptions):
    """Block ``train`` of the methods that train on sub-images.

    Attributes:
        pd_a: PD stride of the sub-images in training (AP-BSN's name); the patch size is a multiple of it.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {'stride': 'pd_a', 'parts': 'num_masks', 'mosaic_pad': 'pd_pad'}
    pd_a: int = Field(default=5, ge=1, le=64)


class APBSNTrainOptions(SubsampledTrainOptions):
    """Block ``train`` of APBSNModel.

    Attributes:
        pd_pad: zeros around each sub-image, all of them in one image, as released; None: the sub-images are a batch.
            ``inference.pd_pad`` follows it.
    """

    pd_pad: int | None = Field(default=2, ge=0, le=256)


class AMSNetTrainOptions(SubsampledTrainOptions):
    """Block ``train`` of AMSNetModel.

    Attributes:
        num_masks: one of so many pixels is hidden in training. ``inference.num_masks`` follows it.
        prior: a loss of one image for the stage ``prior``; default: ``{type: WeightedTVLoss, loss_weight: 0.01}``.
    """

    num_masks: int = Field(default=2, ge=2, le=256)
    prior: dict[str, Any] | None = None


class ValOptions(OptionBlock):
    """Block ``val``.

    Attributes:
        val_freq: iterations between validations.
        save_img: write the denoised images.
        metrics: name -> option block of a BasicSR metric; the first one chooses ``net_*_best.pth``.
        suffix: of the images that a test writes; default: the run's name.
    """

    val_freq: int | None = Field(default=None, ge=1)
    save_img: bool = False
    metrics: dict[str, dict[str, Any]] | None = None
    suffix: FileName | None = None


class WandbOptions(OptionBlock):
    """Block ``logger.wandb``, of BasicSR.

    Attributes:
        project: name of the project; None: off.
        resume_id: of the run to continue.
    """

    project: str | None = None
    resume_id: str | None = None


class LoggerOptions(OptionBlock):
    """Block ``logger``.

    Attributes:
        print_freq: iterations between log lines.
        save_checkpoint_freq: iterations between checkpoints.
        use_tb_logger: write tensorboard's files.
        wandb: Weights & Biases, beside tensorboard.
    """

    print_freq: int = Field(ge=1)
    save_checkpoint_freq: int = Field(ge=1)
    use_tb_logger: bool = False
    wandb: WandbOptions | None = None
