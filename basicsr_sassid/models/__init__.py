"""The methods: one file each, beside the two bases staged_model and subsampled_model."""

from basicsr_sassid.utils.registry import import_registering_modules

import_registering_modules(__name__, __file__, 'model')
