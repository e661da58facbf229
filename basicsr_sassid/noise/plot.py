"""Figure of a noise model: its correlation map with the recommended blind neighbourhood, and sigma by intensity."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from basicsr_sassid.io.photo import Photo, write_photo
from basicsr_sassid.noise.model import MAX_LAG, NoiseModel

_CORRELATIONS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1)  # on the colour bar
_COLOURS = {'R': '#c0392b', 'G': '#1e8449', 'B': '#2e5fa3'}


def draw(noise: NoiseModel, output: str | os.PathLike[str]) -> None:
    """Write the figure, 1100x480 pixels, in the format of ``output``'s extension. Raises UserError if that fails."""
    figure = Figure(figsize=(11, 4.8), dpi=100, layout=ConstrainedLayoutEngine(wspace=0.08))
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_correlation(left, noise)
    _draw_sigma(right, noise)
    canvas.draw()
    write_photo(Photo(np.array(canvas.buffer_rgba())[..., :3]), output)


def _draw_correlation(axes: Axes, noise: NoiseModel) -> None:
    # the root brings out small correlations, which decide the size of the blind neighbourhood
    image = axes.imshow(
        np.sqrt(np.abs(noise.correlation).clip(0, 1)),
        cmap='gray_r',
        vmin=0,
        vmax=1,
        extent=(-MAX_LAG - 0.5, MAX_LAG + 0.5, MAX_LAG + 0.5, -MAX_LAG - 0.5),
    )
    side = noise.blind_size()
    axes.add_patch(Rectangle((-side / 2, -side / 2), side, side, fill=False, edgecolor='#e67e22', linewidth=2.5))
    axes.set(
        title=f'Correlation of the noise, blind_size {side} in orange',
        xlabel='distance, pixels',
        ylabel='distance, pixels',
        xticks=range(-MAX_LAG, MAX_LAG + 1, 4),
        yticks=range(-MAX_LAG, MAX_LAG + 1, 4),
    )
    bar = axes.figure.colorbar(image, ax=axes, label='absolute correlation')
    bar.set_ticks(np.sqrt(_CORRELATIONS).tolist(), labels=[f'{value:g}' for value in _CORRELATIONS])


def _draw_sigma(axes: Axes, noise: NoiseModel) -> None:
    for name, points in noise.sigma_curve.items():
        axes.plot(*points.T, 'o', color=_COLOURS[name], label=name)
        if len(points) > 1:
            slope, offset = noise.variance_fit[name]
            intensity = np.linspace(points[0, 0], points[-1, 0], 50)
            axes.plot(intensity, np.sqrt(np.maximum(slope * intensity + offset, 0)), color=_COLOURS[name])
    highest = max([1.0, *(points[:, 1].max() for points in noise.sigma_curve.values() if len(points))])
    axes.set(
        title='Noise by intensity (lines: variance fit)',
        xlabel='intensity, grey levels',
        ylabel='sigma, grey levels',
        xlim=(0, 255),
        ylim=(0, 1.15 * highest),
    )
    axes.grid(alpha=0.3)
    axes.legend(loc='upper right')
