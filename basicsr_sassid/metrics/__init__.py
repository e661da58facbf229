"""Metrics that BasicSR lacks; importing the package registers them."""

from basicsr_sassid.utils.registry import import_registering_modules

import_registering_modules(__name__, __file__, 'metric')
