from pathlib import Path

from setuptools import find_packages, setup

ONNX = ['onnx', 'onnxscript', 'onnxruntime']  # to write a network (the first two) and to run it
OPTIONS = [f'basicsr_sassid.options.{folder}' for folder in ('sassid', 'apbsn', 'sdap', 'amsnet', 'distilled',
                                                             'evaluation')]
BENCH = ['bm3d', 'h5py', 'PyWavelets']  # peers, DND's files, scikit-image's wavelets
TEST = ['pytest', 'pytest-timeout', *ONNX, *BENCH]

setup(
    name='basicsr_sassid',
    version='0.1.0',
    description='Self-supervised denoising of real photographs (SASSID, CVPR 2023) as a plugin of BasicSR',
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.13',  # basicsr 1.4.2 does not build on 3.13
    packages=[*find_packages(include=['basicsr_sassid*']), *OPTIONS],
    package_dir={package: package.removeprefix('basicsr_sassid.').replace('.', '/') for package in OPTIONS},
    package_data={'basicsr_sassid.pipeline': ['report.html'], **dict.fromkeys(OPTIONS, ['*.yml'])},
    install_requires=['basicsr==1.4.2', 'torch>=2.6', 'torchvision', 'mmcv-lite>=2.1', 'mmengine', 'lmdb',
                      'numpy', 'opencv-python>=4.12', 'pillow>=10.1', 'pyyaml', 'safetensors',
                      'scikit-image', 'scipy', 'jinja2', 'tifffile', 'tqdm'],
    extras_require={'test': TEST, 'bench': [*ONNX, *BENCH], 'bm3d': ['bm3d'], 'dnd': ['h5py'], 'iqa': ['pyiqa'],
                    'onnx': ONNX[:2], 'dev': ['ruff', *TEST]},
    entry_points={'console_scripts': ['sassid=basicsr_sassid.cli:main']},
)
