"""Networks of this package in spandrel, and in programs that load their models through it (ComfyUI, chaiNNer).

Two ways in:

* :func:`install` adds the networks to spandrel's registry: ``spandrel.ModelLoader`` of the same Python process then
  loads a student or a LAN.
* :func:`load` reads one file with this package's own reader and returns spandrel's descriptor.

Limit of ``ModelLoader``: it passes on the state dict alone, without the ``img_range``, ``network`` and ``inference``
that a file of this package also holds. What the state dict does not determine is refused with spandrel's
``UnsupportedModelError``, whose message names :func:`load`:

* The value of white for the network, 255 or 1. ``ModelLoader`` assumes 255, as SASSID trains, and first runs the
  network on a test image in both ranges: the range must follow from the result (``range_problem`` in
  :mod:`basicsr_sassid.integrations.spandrel_arch`).
* ``blind_size`` of a BNN, and the passes of a DBSNl (AP-BSN, SDAP): both networks are refused.

One case remains undetected: a DenoisingUNet trained by AMSNetModel with ``img_range: 255`` (its option
files set 1) is meant for several passes and runs in one. :func:`load` refuses it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from basicsr_sassid.inference.subsampled import SINGLE_PASS, InferenceConfig
from basicsr_sassid.io.author_checkpoints import infer_network_options
from basicsr_sassid.io.checkpoint import build_card_network, read_weights, state_dict_of
from basicsr_sassid.io.weights_card import OWN_NETWORKS
from basicsr_sassid.utils.errors import UserError

if TYPE_CHECKING:
    from spandrel import ArchSupport, ImageModelDescriptor

    from basicsr_sassid.integrations.spandrel_arch import UnitRangeNetwork

# programs over spandrel give no noise level, which FFDNet needs
_KINDS = tuple(kind for kind in OWN_NETWORKS if kind != 'FFDNet')


def install() -> list[ArchSupport]:
    """Add the networks of this package to spandrel's main registry. A second call adds nothing.

    ``spandrel.ModelLoader`` then loads a student (DenoisingUNet) or a LAN from a ``.safetensors`` or ``.pth`` of this
    package, or from a checkpoint of the SASSID authors.

    Returns:
        The entries that were added.

    Raises:
        UserError: spandrel is not installed.

    Example:
        >>> install()
        >>> denoiser = spandrel.ModelLoader().load_from_file('student.safetensors')
        >>> denoiser(image)     # (1, 3, H, W) RGB in [0, 1] -> the same, denoised
    """
    _require_spandrel()
    from spandrel import MAIN_REGISTRY, ArchSupport

    from basicsr_sassid.integrations.spandrel_arch import SassidArchitecture

    return MAIN_REGISTRY.add(
        *[ArchSupport.from_architecture(SassidArchitecture(kind)) for kind in _KINDS], ignore_duplicates=True
    )


def load(
    path: str | os.PathLike[str], key: str | None = None, img_range: float | None = None
) -> ImageModelDescriptor[UnitRangeNetwork]:
    """Load a file of this package as spandrel's descriptor, with the network and the range that the file states.

    :func:`install` is not needed.

    Args:
        path: ``.safetensors`` or ``.pth`` of a BNN, LAN, DenoisingUNet or DBSNl that is used in one pass.
        key: ``'params'`` or ``'params_ema'``; by default the average if the file has one.
        img_range: value of white for the network; by default as the file states. For a file that states none: 255,
            if a test image confirms it.

    Returns:
        A descriptor on the CPU: (1, C, H, W) in [0, 1] -> (1, C, H, W) in [0, 1], any H and W.

    Raises:
        UserError: spandrel is not installed; the file is missing or damaged, or its network is none of the four; the
            network is used in several passes or with another blind size than in training; the range is unknown.
    """
    _require_spandrel()
    from basicsr_sassid.integrations.spandrel_arch import SassidArchitecture, UnitRangeNetwork, range_problem

    content = read_weights(path)
    state = state_dict_of(content, path, key)
    block = content.get('network') or infer_network_options(state)
    kind = str(block.get('type')) if block else 'an unknown network'
    if block is None or kind not in _KINDS:
        raise UserError(f'{path}: expected one of the networks {", ".join(_KINDS)}, got {kind}')
    net = build_card_network(block, state, path)
    if InferenceConfig.from_file(content.get('inference'), str(path)) != SINGLE_PASS:
        raise UserError(
            f'{path}: this {kind} is used in several passes or with another blind size ({content["inference"]}), and '
            'spandrel runs one plain pass. Use basicsr_sassid.Denoiser, or train a student from it (options/distilled).'
        )
    stated = img_range or content.get('img_range')
    in_unit_range = UnitRangeNetwork(net, stated or 255).eval().requires_grad_(False)
    if stated is None and (problem := range_problem(in_unit_range)):
        raise UserError(f'{path}: {problem} State the range: img_range=255 or img_range=1.')
    return SassidArchitecture(kind).describe(in_unit_range)


def _require_spandrel() -> None:
    try:
        import spandrel  # noqa: F401
    except ImportError as error:
        raise UserError("spandrel is not installed: pip install 'basicsr_sassid[spandrel]'") from error
