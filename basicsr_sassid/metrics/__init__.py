from basicsr_sassid._scan import import_registering

import_registering(__name__, __file__, 'metric')
