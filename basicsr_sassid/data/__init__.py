"""Datasets, teacher cache, sampler, preparation of published datasets; importing the package registers the datasets."""

from basicsr_sassid.utils.registry import import_registering_modules

import_registering_modules(__name__, __file__, 'dataset')
