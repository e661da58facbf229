from basicsr_sassid.clean.session import clean_photos, train_on

__all__ = ['clean_photos', 'train_on']
