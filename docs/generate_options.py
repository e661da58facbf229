"""Writes docs/options.md from the typed option blocks: python docs/generate_options.py [--check]"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic_core import PydanticUndefined

from basicsr_sassid.data.schema import NoisyImageOptions, PhotoOptions
from basicsr_sassid.data.synthetic_schema import NoiseOptions, SyntheticNoiseOptions
from basicsr_sassid.evaluation import iqa_schema as iqa
from basicsr_sassid.evaluation import schema as evaluation
from basicsr_sassid.inference.subsampled import InferenceConfig
from basicsr_sassid.losses.d2sm_loss import D2SMOptions
from basicsr_sassid.training import schema
from basicsr_sassid.training.degradation_schema import DegradationOptions
from basicsr_sassid.training.sfd_schema import SemanticOptions, SFDOptions
from basicsr_sassid.utils.schema import OptionBlock, nested_block

OUTPUT = Path(__file__).with_name('options.md')
INTRODUCTION = """# Options

Generated from the typed option blocks by `python docs/generate_options.py`; do not edit.

One file is one run. A misspelt key is an error that names the right one. `--force_yml a:b=value` changes or adds a
key on the command line; values are read as YAML. Values out of range, names that are no file names, and anything that
cannot be built or called are errors before a file is written or an earlier run is renamed.

Complete examples with a reason for each value: [options/sassid/train_sidd.yml](../options/sassid/train_sidd.yml) and
the other files of [options/](../options).

## Networks and their roles

A role never depends on another key.

| option block | files | role |
|---|---|---|
| `network_bnn` | `net_bnn_*.pth` | SASSID's BNN, the teacher of flat areas |
| `network_lan` | `net_lan_*.pth` | SASSID's LAN, the teacher of textured areas |
| `network_bsn` | `net_bsn_*.pth` | the network of AP-BSN, SDAP or AMSNet |
| `network_teacher` | given: `path.pretrain_network_teacher` | the teacher of DistilledModel |
| `network_flat`, `network_texture` | given, likewise | the teachers of TwoTeacherModel |
| `network_g` | `net_g_*.pth` | the student that is delivered; the network of a test |

`network_*`, `loss`, `optim`, `scheduler`, `val.metrics` and `datasets` of BasicSR's types stay open: BasicSR's
registries and torch define their keys, and an unknown one is an error that lists them.

## Top level

| block | content |
|---|---|
| `datasets` | blocks `train`, `val`, `val_2` ..., or `test`, `test_2` ... |
| `network_*` | `{type: NAME, ...}`, any network of BasicSR's registry |
| `path` | `pretrain_network_*`, `param_key_*` (`params` or `params_ema`), `strict_load_*`, `resume_state` |
| `train`, `val`, `logger`, `inference`, `dist_params` | below |
"""

BLOCKS: list[tuple[str, type[OptionBlock]]] = [
    ('Top level, beside the blocks', schema.RunOptions),
    ('dist_params', schema.DistOptions),
    ('train', schema.TrainOptions),
    ('train of ThreeStageModel', schema.ThreeStageTrainOptions),
    ('train of BlindSizesModel', schema.BlindSizesTrainOptions),
    ('train of ATBSNModel', schema.ATBSNTrainOptions),
    ('train of APBSNModel, SDAPModel, AMSNetModel', schema.SubsampledTrainOptions),
    ('train of APBSNModel', schema.APBSNTrainOptions),
    ('train of AMSNetModel', schema.AMSNetTrainOptions),
    ('train.stages.<stage>', schema.StageOptions),
    ('train.texture', schema.TextureOptions),
    ('train.d2sm_opt of D2SMModel, or a loss of type D2SMLoss', D2SMOptions),
    ('train.sfd_opt of SFDModel', SFDOptions),
    ('train.sfd_opt.features', SemanticOptions),
    ('train.degradation_opt of RealWorldSFDModel', DegradationOptions),
    ('inference', InferenceConfig),
    ('datasets.<name> of types NoisyImageDataset and SyntheticNoiseDataset', PhotoOptions),
    ('datasets.<name> of type NoisyImageDataset', NoisyImageOptions),
    ('datasets.<name> of type SyntheticNoiseDataset', SyntheticNoiseOptions),
    ('datasets.<name>.noise', NoiseOptions),
    ('val', schema.ValOptions),
    ('logger', schema.LoggerOptions),
    ('logger.wandb', schema.WandbOptions),
    ('Files of options/evaluation', evaluation.EvaluationOptions),
    ('datasets.<name> of an evaluation', evaluation.DatasetOptions),
    ('trainings.<name> of an evaluation', evaluation.TrainingOptions),
    ('methods.<name> of type denoiser', evaluation.DenoiserOptions),
    ('methods.<name> of type bm3d', evaluation.BM3DOptions),
    ('crop_grid', evaluation.CropGridOptions),
    ('Files of options/evaluation with metrics', iqa.IQAOptions),
    ('datasets.<name> beside metrics', iqa.ScoredDatasetOptions),
    ('metrics.<name>', iqa.IQAMetricOptions),
]


def attribute_texts(block: type) -> dict[str, str]:
    """Key -> its lines in the Attributes section of the docstring."""
    section = (block.__doc__ or '').partition('Attributes:')[2]
    texts: dict[str, str] = {}
    keys: list[str] = []
    for line in section.splitlines():
        match = re.match(r' {8}(\w+(?:, \w+)*): (.*)', line)
        if match:
            keys = match[1].split(', ')
            texts.update(dict.fromkeys(keys, match[2]))
        elif line.strip():
            texts.update({key: f'{texts[key]} {line.strip()}' for key in keys})
    return texts


def type_text(annotation: Any) -> str:
    """A type in words for a table."""
    if get_origin(annotation) is Annotated:
        return type_text(get_args(annotation)[0])
    if nested_block(annotation) is not None:
        return 'block'
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    if get_origin(annotation) is not None and str(annotation).startswith('typing.Literal'):
        return ', '.join(f'`{str(value).lower() if isinstance(value, bool) else value}`' for value in arguments)
    if get_origin(annotation) in (dict, list, tuple):
        return 'block' if get_origin(annotation) is dict else 'list'
    if arguments:
        return ' or '.join(dict.fromkeys(map(type_text, arguments)))
    return {
        'int': 'whole number',
        'float': 'number',
        'bool': 'true, false',
        'str': 'text',
        'Any': 'any',
        'object': 'any',
    }.get(getattr(annotation, '__name__', ''), str(annotation))


def default_text(field: Any) -> str:
    """A default for a table."""
    if field.default is PydanticUndefined and field.default_factory is None:
        return 'required'
    default = field.get_default(call_default_factory=True)
    if isinstance(default, OptionBlock):
        return 'as below'
    return (
        {None: '', True: 'true', False: 'false'}.get(default, default)
        if isinstance(default, bool | type(None))
        else str(default)
    )


def table(block: type[OptionBlock], without: type[OptionBlock] | None) -> list[str]:
    """The rows of a block, without the keys that it inherits with their defaults."""
    texts: dict[str, str] = {}
    for known in reversed(block.__mro__):
        texts.update(attribute_texts(known))
    lines = ['| key | type | default | meaning |', '|---|---|---|---|']
    for key, field in block.model_fields.items():
        inherited = without and without.model_fields.get(key)
        if not inherited or default_text(field) != default_text(inherited):
            meaning = texts.get(key, '').replace('``', '`').replace('None:', '`~`:').replace('|', '/')
            lines.append(f'| `{key}` | {type_text(field.annotation)} | {default_text(field)} | {meaning} |')
    return lines


def base_block(block: type[OptionBlock]) -> type[OptionBlock] | None:
    """The documented block that a block extends."""
    return next((base for base in block.__mro__[1:] if any(base is known for _, known in BLOCKS)), None)


def title_of(block: type[OptionBlock]) -> str:
    """The heading of a documented block."""
    title = next(title for title, known in BLOCKS if known is block)
    return title if ' ' in title else f'`{title}`'


def render() -> str:
    """The page."""
    lines = [INTRODUCTION]
    for title, block in BLOCKS:
        base = base_block(block)
        extends = f' Beside the keys of {title_of(base)}:' if base else ''
        first = (block.__doc__ or '').partition('\n\n')[0].replace('``', '`')
        lines += [
            f'## `{title}`' if ' ' not in title else f'## {title}',
            '',
            re.sub(r'\s+', ' ', first) + extends,
            '',
            *table(block, base),
            '',
        ]
    rows = dict.fromkeys(
        f'| {title_of(block)} | `{old}` | {new} |'
        for _, block in BLOCKS
        for old, new in sorted(block.renamed_keys.items())
        if not any(old in base.renamed_keys for base in [base_block(block)] if base)
    )
    lines += ['## Renamed keys', '', 'An old key is an error that names the new one.', '']
    lines += ['| block | old | now |', '|---|---|---|', *rows, '']
    return '\n'.join(lines)


def main() -> None:
    """Write the page, or check that it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='fail if docs/options.md is stale')
    args = parser.parse_args()
    if args.check:
        sys.exit(
            0
            if OUTPUT.is_file() and OUTPUT.read_text(encoding='utf-8') == render()
            else 'docs/options.md is stale: python docs/generate_options.py'
        )
    OUTPUT.write_text(render(), encoding='utf-8')


if __name__ == '__main__':
    main()
